"""The equation with the optimizer's memories as states."""
