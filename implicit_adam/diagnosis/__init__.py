"""What a run is doing at one of its points, and which equation predicts it from there."""
