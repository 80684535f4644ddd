"""Through the edge of stability: Adam where it alternates, and the equations beside it, on four networks."""
