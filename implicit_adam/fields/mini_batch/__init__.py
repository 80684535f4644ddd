"""Fields of mini-batch training, Theorem 3.1."""
