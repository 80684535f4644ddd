"""Any optax transformation as an optimizer, and what is found out about one by running it."""
