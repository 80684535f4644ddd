"""Fields past the edge of stability: the covariance of the oscillation, and its effect on the mean path."""
