"""Through the edge of stability: Adam where it alternates, and the equations for it, on four networks."""
