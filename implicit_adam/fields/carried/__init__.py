"""Equations in which the optimizer's memories are states."""
