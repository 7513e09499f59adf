"""M3PO-style (paper details unavailable): planning in a decoder-free latent model, a bonus for disagreement, a trust
region."""
