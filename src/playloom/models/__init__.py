"""Networks, token arithmetic and checkpoints."""
