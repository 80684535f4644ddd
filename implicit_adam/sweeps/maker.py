"""What the bits of a result depend on besides its program and its point, in words to be compared.

XLA sums in another order for other devices, for another processor, and on a CPU for another number of cores:
the same program then agrees to rounding only.
"""

import functools
import hashlib
import os
import platform
from collections import Counter
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

# What Linux says of a processor and a compiler looks at, on x86 and on ARM.
FEATURES = (
    "vendor_id",
    "cpu family",
    "model",
    "model name",
    "flags",
    "Features",
    "CPU implementer",
    "CPU architecture",
    "CPU part",
)


def maker(mesh: Mesh, text: str) -> str:
    """The devices, XLA's flags, and by a hash the program as it was lowered for them."""
    kinds = Counter(_kind(device) for device in mesh.devices.flat)
    devices = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    flags = os.environ.get("XLA_FLAGS", "")
    return f"{devices}{f', XLA_FLAGS={flags}' * bool(flags)}, program {_short(text)}"


def _kind(device: Any) -> str:
    if device.platform != "cpu":
        return device.device_kind
    return f"cpu ({_processor()}; cores: {_cores()})"


def _cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _processor() -> str:
    """JAX calls every one of them "cpu"."""
    try:
        first, *_ = Path("/proc/cpuinfo").read_text().split("\n\n")
    except OSError:
        return platform.processor()
    facts = {name.strip(): value for name, _, value in (line.partition(":") for line in first.splitlines())}
    known = {name: facts[name].strip() for name in FEATURES if name in facts}
    return f"{known.get('model name', platform.machine())}, {_short(str(known))}"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
