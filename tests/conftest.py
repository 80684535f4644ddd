from pathlib import Path

import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 4)


# A process may have 65530, and past that XLA crashes while compiling; one compiled flow holds hundreds.
MAPS, MANY = Path("/proc/self/maps"), 20_000


@pytest.fixture(autouse=True)
def forget_compiled_programs():
    """Before their memory maps run out."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MANY:
        jax.clear_caches()


@pytest.fixture
def no_type_checker():
    """Users have none that would stand before our own words."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
