"""MoW: a mixture of world models with an actor and critics that learn in imagination."""
