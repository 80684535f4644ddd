"""Compiles one program for a chunk of lanes (points that run together), spread over all devices."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.extend.core import jaxpr_as_fun
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from implicit_adam.checks.numbers import is_numeric
from implicit_adam.programs.captured import digest, trace

# The fraction of a device's memory that an automatic chunk may take.
SHARE_OF_MEMORY = 0.5

Lanes = dict[str, np.ndarray]


class Program(NamedTuple):
    """A traced function: its jaxpr, and the shapes that it returns."""

    jaxpr: Any
    shape: Any
    names: tuple[str, ...]

    def __call__(self, point: dict[str, Any]) -> Any:
        leaves = jaxpr_as_fun(self.jaxpr)(*(point[name] for name in self.names))
        return jax.tree.unflatten(jax.tree.structure(self.shape), leaves)


def traced(fn: Callable[..., Any], points: Lanes) -> Program:
    """Trace fn at one point."""
    names = tuple(points)

    def of_arrays(*values: Any) -> Any:
        result = jax.tree.map(_as_array, fn(**dict(zip(names, values, strict=True))))
        if not jax.tree.leaves(result):
            msg = "fn returns no arrays; return a number, an array or a pytree of them"
            raise ValueError(msg)
        return result

    one = [jax.ShapeDtypeStruct((), values.dtype) for values in points.values()]
    jaxpr, shape = trace(of_arrays, *one)
    return Program(jaxpr, shape, names)


def _as_array(x: Any) -> Any:
    array = jnp.asarray(x) if is_numeric(x) or hasattr(x, "__jax_array__") else None
    if array is None or jnp.issubdtype(array.dtype, jax.dtypes.extended):
        kind = type(x).__name__ if array is None else f"{array.dtype} array"
        msg = f"fn returns a {kind}; return numbers, arrays or pytrees of them (jax.random.key_data(key))"
        raise ValueError(msg)
    return array


def device_mesh(mesh: Mesh | None = None, devices: Any = None) -> Mesh:
    """The given mesh, or a mesh with one axis over the devices, by default all devices of all processes."""
    if mesh is not None:
        if not isinstance(mesh, Mesh):
            msg = f"mesh must be a jax.sharding.Mesh, got {mesh!r}; jax.make_mesh((4,), ('lanes',)) makes one"
            raise ValueError(msg)
        return mesh
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("lanes",), devices=devices, axis_types=(AxisType.Auto,))


class Chunk(NamedTuple):
    """The compiled program for `size` lanes at a time, and the shapes that one lane returns.

    It keeps no jaxpr: as long as one lives, JAX takes the constants in it to be unchanged.
    """

    shape: Any
    run: Callable[[Any], Any]
    size: int
    sharding: NamedSharding
    digest: str
    bytes_a_device: int

    def __call__(self, points: Lanes) -> Any:
        """Results as numpy arrays, on every process."""
        arrays = {
            name: jax.make_array_from_callback(x.shape, self.sharding, lambda index, x=x: x[index])
            for name, x in points.items()
        }
        result = self.run(arrays)
        if jax.process_count() > 1:
            result = multihost_utils.process_allgather(result, tiled=True)
        return jax.tree.map(_portable, jax.device_get(result))


def compiled(program: Program, points: Lanes, size: int, mesh: Mesh) -> Chunk:
    """Compile the program for `size` lanes, rounded up to a multiple of the number of devices."""
    size = -(-size // mesh.size) * mesh.size
    spec = PartitionSpec(mesh.axis_names)
    sharding = NamedSharding(mesh, spec)
    # Faster than jit(vmap) on sharded data for adaptive solves: lanes only wait for those of their device.
    sharded = jax.shard_map(jax.vmap(program), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    shapes = {name: jax.ShapeDtypeStruct((size,), x.dtype, sharding=sharding) for name, x in points.items()}
    lowered = jax.jit(sharded).lower(shapes)
    executable = lowered.compile()
    plan = executable.memory_analysis()
    used = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes if plan else 0
    shape = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, _portable_dtype(x.dtype)), program.shape)
    return Chunk(shape, executable, size, sharding, _digest(program, lowered.as_text()), used)


def _portable(x: Any) -> np.ndarray:
    return np.asarray(x).astype(_portable_dtype(np.asarray(x).dtype))


def _portable_dtype(dtype: Any) -> Any:
    """The dtype in files: float32 for dtypes that numpy does not have, such as bfloat16 and narrower ones."""
    return np.dtype(np.float32) if np.dtype(dtype).kind == "V" else dtype


# Compiled chunks by everything that determines them, the last used at the end; for jaxprs see `Chunk`.
_kept: OrderedDict[Hashable, Chunk] = OrderedDict()
MOST_KEPT = 32


def prepared(fn: Callable[..., Any], points: Lanes, size: Any, mesh: Mesh) -> Chunk:
    """The compiled program for chunks of `size` lanes, kept for later sweeps; None: all, "auto": what fits.

    fn is traced at every call, so that changes in what it closes over are seen; unchanged, it compiles once.
    """
    lanes = len(next(iter(points.values())))
    one = {name: np.zeros((), values.dtype) for name, values in points.items()}
    program = traced(fn, one)
    types = tuple((name, x.dtype.name) for name, x in one.items())
    # The key also has the function itself, since no digest covers its callbacks.
    known = fn if isinstance(fn, Hashable) else id(fn)
    key = (known, digest(program.jaxpr), types, lanes, size, mesh)
    if key not in _kept:
        fitting = automatic_size(program, one, lanes, mesh) if size == "auto" else size
        _kept[key] = compiled(program, one, lanes if fitting is None else min(fitting, lanes), mesh)
    _kept.move_to_end(key)
    while len(_kept) > MOST_KEPT:
        _kept.popitem(last=False)
    return _kept[key]


def automatic_size(program: Program, points: Lanes, lanes: int, mesh: Mesh) -> int:
    """The number of lanes that fit into half of the memory, by the compiler's plans for two chunk sizes."""
    few, more = (compiled(program, points, k * mesh.size, mesh).bytes_a_device for k in (8, 64))
    a_lane = max((more - few) / 56, 1)
    return int(min(lanes, max(1, SHARE_OF_MEMORY * _memory() / a_lane) * mesh.size))


def _memory() -> float:
    """The memory of one device in bytes; CPU devices share the machine's."""
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    if limit:
        return float(limit)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / jax.local_device_count()


def _digest(program: Program, text: str) -> str:
    """A hash of the computation, with the constants in it."""
    return hashlib.sha256(f"{text}{digest(program.jaxpr)}".encode()).hexdigest()
