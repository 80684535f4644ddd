"""Bad arguments, refused at the boundary with words: what came, what is allowed, how to put it right.

Always as `ValueError`, for values and types alike, so that callers have one thing to catch.

A traced value cannot be looked at; it is let through, and trouble shows as a flag in the result. Known values
are looked at with numpy: under an outer jit, jax.numpy would trace even these, and XLA flushes subnormals.
"""
