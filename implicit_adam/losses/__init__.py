"""Losses: norms, penalties, modified losses, and problems to try things on."""
