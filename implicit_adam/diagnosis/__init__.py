"""`diagnose`, `Probe` and `advise`: what a run is doing at a point, and which equation predicts it."""
