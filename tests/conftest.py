import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path

# Bytes of compiled programs that are kept on disk.
ENOUGH = 2 * 2**30

# Most of the time of these tests goes into compiling small programs that run once, and most of that into
# making them fast. An unknown flag ends the process, so that each is tried in another one.
FLAGS = (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
)


def compile_quickly():
    """In the processes that the tests start, too: they inherit the flags."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    for flag in FLAGS:
        flags = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
        command = [sys.executable, "-c", "import jax; jax.numpy.ones(1)"]
        tried = subprocess.run(
            command, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, check=False
        )
        if tried.returncode == 0:
            os.environ["XLA_FLAGS"] = flags


compile_quickly()

import jax  # noqa: E402
import pytest  # noqa: E402

# What is imported is not garbage, and tracing makes much that is short-lived.
gc.freeze()
gc.set_threshold(50_000, 20, 20)

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 4)


def pytest_configure(config):
    """Keep what is compiled for the next run of the tests, and for the processes beside this one."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or not hasattr(config, "cache"):
        return
    folder = config.cache.mkdir("compiled")
    if not hasattr(config, "workerinput") and sum(x.stat().st_size for x in folder.iterdir()) > ENOUGH:
        shutil.rmtree(folder)
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


# A process may have 65530, and past that XLA crashes while compiling; one compiled flow holds hundreds.
MAPS, MANY = Path("/proc/self/maps"), 20_000


@pytest.fixture(autouse=True)
def forget_compiled_programs():
    """Before their memory maps run out."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MANY:
        jax.clear_caches()
