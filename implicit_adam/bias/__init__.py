"""The implicit bias: what it is, its parts, and an optimizer without it."""
