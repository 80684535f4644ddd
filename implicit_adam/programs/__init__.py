"""What JAX programs say of the functions they were traced from."""
