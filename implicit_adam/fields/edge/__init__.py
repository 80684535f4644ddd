"""Past the edge of stability: what oscillates, and what that does to the mean."""
