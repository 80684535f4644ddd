import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 4)


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """Each holds memory maps, of which a process may have 65530: past that XLA crashes while compiling."""
    yield
    jax.clear_caches()
