"""What importing us costs more than importing what we stand on."""

import statistics
import subprocess
import sys
import time

from benchmarks.measure import Measure, Measures
from benchmarks.timing import Timing

BASE = "import jax, optax, diffrax"


def _seconds(program: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - start


def imports() -> Measure:
    """Whole processes in pairs; the median difference."""
    programs = {BASE: BASE, "with implicit_adam": f"{BASE}, implicit_adam"}
    for program in programs.values():
        _seconds(program)
    pairs = [{name: _seconds(program) for name, program in programs.items()} for _ in range(7)]
    more = statistics.median(pair["with implicit_adam"] - pair[BASE] for pair in pairs)
    medians = {name: statistics.median(pair[name] for pair in pairs) for name in programs}
    timings = {name: Timing(seconds, seconds) for name, seconds in medians.items()}
    return Measure("import implicit_adam, seconds more than its dependencies", more, "<=", 0.2, timings, {})


MEASURES: Measures = {"imports": imports}
