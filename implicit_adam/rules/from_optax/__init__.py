"""Any optax transformation as an optimizer; its properties are found by running it."""
