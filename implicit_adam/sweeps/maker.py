"""A description of the machine that the bits of a result depend on, beside its program and its point.

XLA sums in a different order on different devices or processors and, on a CPU, with a different number of
cores: the results of the same program then agree only to rounding.
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
    """The devices, XLA's flags, and a hash of the program as lowered for them."""
    kinds = Counter(_kind(device) for device in mesh.devices.flat)
    devices = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    flags = os.environ.get("XLA_FLAGS", "")
    return f"{devices}{f', XLA_FLAGS={flags}' * bool(flags)}, program {_short(text)}"


def _kind(device: Any) -> str:
    if device.platform != "cpu":
        return device.device_kind
    return f"cpu ({_processor()}; cores: {cores()})"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _processor() -> str:
    """The features of the processor; JAX calls every processor "cpu"."""
    try:
        first, *_ = Path("/proc/cpuinfo").read_text().split("\n\n")
    except OSError:
        return platform.processor()
    facts = {name.strip(): value for name, _, value in (line.partition(":") for line in first.splitlines())}
    known = {name: facts[name].strip() for name in FEATURES if name in facts}
    return f"{known.get('model name', platform.machine())}, {_short(str(known))}"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
