"""Scores, figures and pages from a run's files; never imports jax. Command: python -m mow_jax.report."""
