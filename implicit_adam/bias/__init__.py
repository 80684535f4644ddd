"""The implicit bias: its value, its parts, and optimizers that add or remove it."""
