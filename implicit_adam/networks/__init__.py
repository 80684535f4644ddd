"""Networks to train: pure functions of pytrees of parameters."""
