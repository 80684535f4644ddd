"""Sweeps of one function over a grid of points: vmapped, chunked, sharded and resumable."""

from implicit_adam.sweeps.result import SweepResult as SweepResult
from implicit_adam.sweeps.sweep import sweep as sweep
