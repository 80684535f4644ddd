"""Checks of arguments at the public boundary; messages say what was given, what is allowed, how to fix it.

They always raise `ValueError`, for wrong values and wrong types, so that callers have one error to catch.

Traced values cannot be inspected: they pass, and trouble shows as a flag in the result. Known values are
inspected with numpy: under an outer jit, jax.numpy would trace even these, and XLA flushes subnormals.
"""
