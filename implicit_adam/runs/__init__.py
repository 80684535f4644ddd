"""Functions that run an optimizer, its differential equations, or its memoryless map, and record the path."""
