"""All equations for Adam on the same runs: which one to believe at which settings."""
