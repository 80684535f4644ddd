"""What is measured of a run or at a point."""
