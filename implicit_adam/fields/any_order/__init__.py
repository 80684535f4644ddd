"""Fields of any order, for any optimizer."""
