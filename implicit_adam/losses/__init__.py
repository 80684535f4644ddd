"""Losses: gradient penalties, modified losses, accumulated losses, and test problems."""
