"""What the programs (jaxprs) that JAX traces from functions tell about these functions."""
