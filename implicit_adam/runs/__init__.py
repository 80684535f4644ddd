"""Runs: the optimizer, its flows, and the map without memory."""
