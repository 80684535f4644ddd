"""Fields to any order, of any optimizer."""
