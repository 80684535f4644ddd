"""Measurements along a run or at a point: orders of convergence, sharpness, stability, observables."""
