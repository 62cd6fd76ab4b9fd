"""Training: differentiation, losses, optimizers, and the assembly of entry points."""
