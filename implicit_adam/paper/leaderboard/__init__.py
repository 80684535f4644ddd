"""All equations for Adam on the same runs: which one predicts it at which settings."""
