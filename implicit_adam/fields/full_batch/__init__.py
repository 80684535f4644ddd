"""Fields of full-batch training in closed form."""
