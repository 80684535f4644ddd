"""Compiles one program for a chunk of lanes (points that run together), spread over the local devices."""

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from implicit_adam.checks.numbers import is_numeric
from implicit_adam.programs.captured import digest, trace
from implicit_adam.sweeps.maker import maker

# The fraction of a device's memory that an automatic chunk may take.
SHARE_OF_MEMORY = 0.5

Lanes = dict[str, np.ndarray]


class Program(NamedTuple):
    """A function, traced once.

    - `fn`: stands for itself among functions with equal programs, whose callbacks may differ.
    - `jaxpr`, and `digest`, equal for equal programs that hold equal constants.
    - `shape`: of what comes back, as numpy knows it.
    - `dtypes`: of the arguments, by name.
    """

    fn: Callable[..., Any]
    jaxpr: Any
    digest: Hashable
    shape: Any
    dtypes: dict[str, Any]

    def __call__(self, point: dict[str, Any]) -> Any:
        leaves = jaxpr_as_fun(self.jaxpr)(*(point[name] for name in self.dtypes))
        return jax.tree.unflatten(jax.tree.structure(self.shape), leaves)


def traced(fn: Callable[..., Any], points: Lanes) -> Program:
    """Trace fn at one point."""
    dtypes = {name: values.dtype for name, values in points.items()}

    def of_arrays(*values: Any) -> Any:
        result = jax.tree.map(_as_array, fn(**dict(zip(dtypes, values, strict=True))))
        if not jax.tree.leaves(result):
            msg = "fn returns no arrays; return a number, an array or a pytree of them"
            raise ValueError(msg)
        return result

    jaxpr, shape = trace(of_arrays, *(jax.ShapeDtypeStruct((), dtype) for dtype in dtypes.values()))
    shape = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, _portable_dtype(x.dtype)), shape)
    return Program(fn, jaxpr, digest(jaxpr), shape, dtypes)


def _as_array(x: Any) -> Any:
    array = jnp.asarray(x) if is_numeric(x) or hasattr(x, "__jax_array__") else None
    if array is None or jnp.issubdtype(array.dtype, jax.dtypes.extended):
        kind = type(x).__name__ if array is None else f"{array.dtype} array"
        msg = f"fn returns a {kind}; return numbers, arrays or pytrees of them (jax.random.key_data(key))"
        raise ValueError(msg)
    return array


def device_mesh(mesh: Mesh | None = None, devices: Any = None) -> Mesh:
    """The given mesh, or a mesh with one axis over the devices, by default all devices of this process."""
    if mesh is not None:
        if not isinstance(mesh, Mesh):
            msg = f"mesh must be a jax.sharding.Mesh, got {mesh!r}; jax.make_mesh((4,), ('lanes',)) makes one"
            raise ValueError(msg)
        if any(device.process_index != jax.process_index() for device in mesh.devices.flat):
            msg = (
                "mesh has devices of other processes; take this one's, jax.local_devices(): processes share "
                "a sweep through the folder of its checkpoint"
            )
            raise ValueError(msg)
        return mesh
    devices = jax.local_devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("lanes",), devices=devices, axis_types=(AxisType.Auto,))


class Chunk(NamedTuple):
    """The compiled program for `size` lanes, and a description of everything its bits may depend on.

    It keeps no jaxpr: as long as one lives, JAX takes the constants in it to be unchanged.
    """

    run: Callable[[Any], Any]
    size: int
    sharding: NamedSharding
    maker: str
    bytes_a_device: int

    def __call__(self, points: Lanes) -> list[np.ndarray]:
        """The leaves of the results of so many lanes or fewer."""
        lanes = len(next(iter(points.values())))
        arrays = jax.device_put(filled(points, self.size), self.sharding)
        return [_portable(leaf)[:lanes] for leaf in jax.tree.leaves(jax.device_get(self.run(arrays)))]


def filled(points: Lanes, size: int) -> Lanes:
    """The points of a whole chunk, filled up with copies of the last lane."""
    return {name: np.pad(values, (0, size - len(values)), mode="edge") for name, values in points.items()}


def compiled(program: Program, size: int, mesh: Mesh) -> Chunk:
    """Compile the program for `size` lanes, rounded up to a multiple of the number of devices."""
    size = rounded(size, mesh)
    spec = PartitionSpec(mesh.axis_names)
    sharding = NamedSharding(mesh, spec)
    # Faster than jit(vmap) on sharded data for adaptive solves: lanes only wait for those of their device.
    sharded = jax.shard_map(jax.vmap(program), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    shapes = {
        name: jax.ShapeDtypeStruct((size,), dtype, sharding=sharding)
        for name, dtype in program.dtypes.items()
    }
    lowered = jax.jit(sharded).lower(shapes)
    executable = lowered.compile()
    plan = executable.memory_analysis()
    used = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes if plan else 0
    return Chunk(executable, size, sharding, maker(mesh, lowered.as_text()), used)


def rounded(size: int, mesh: Mesh) -> int:
    """Up to a multiple of the devices."""
    return -(-size // mesh.size) * mesh.size


def _portable(x: Any) -> np.ndarray:
    return np.asarray(x).astype(_portable_dtype(np.asarray(x).dtype))


def _portable_dtype(dtype: Any) -> Any:
    """The dtype in files: float32 for dtypes that numpy does not have, such as bfloat16 and narrower ones."""
    return np.dtype(np.float32) if np.dtype(dtype).kind == "V" else dtype


# Compiled chunks by everything that determines them, the last used at the end; for jaxprs see `Chunk`.
_kept: OrderedDict[Hashable, Chunk] = OrderedDict()
MOST_KEPT = 32


def prepared(program: Program, size: int, mesh: Mesh) -> Chunk:
    """The compiled program for chunks of `size` lanes, kept for later sweeps: unchanged, it compiles once."""
    known = program.fn if isinstance(program.fn, Hashable) else id(program.fn)
    types = tuple((name, dtype.name) for name, dtype in program.dtypes.items())
    key = (known, program.digest, types, size, mesh)
    if key not in _kept:
        _kept[key] = compiled(program, size, mesh)
    _kept.move_to_end(key)
    while len(_kept) > MOST_KEPT:
        _kept.popitem(last=False)
    return _kept[key]


def lanes_a_chunk(program: Program, lanes: int, asked: Any, mesh: Mesh) -> int:
    """How many of the lanes run at a time: as many as asked, all (None), or as many as fit ("auto")."""
    most = automatic_size(program, lanes, mesh) if asked == "auto" else lanes if asked is None else asked
    return rounded(min(most, lanes), mesh)


def automatic_size(program: Program, lanes: int, mesh: Mesh) -> int:
    """The number of lanes that fit into half of the memory, by the compiler's plans for two chunk sizes."""
    few, more = (prepared(program, k * mesh.size, mesh).bytes_a_device for k in (8, 64))
    a_lane = max((more - few) / 56, 1)
    return int(min(lanes, max(1, SHARE_OF_MEMORY * _memory() / a_lane) * mesh.size))


def _memory() -> float:
    """The memory of one device in bytes; CPU devices share the machine's."""
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    if limit:
        return float(limit)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / jax.local_device_count()
