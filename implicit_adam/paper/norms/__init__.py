"""Figures 4 to 6: the perturbed one-norm along full-batch runs of networks, and its hill."""
