"""One compiled program for a chunk of lanes, spread over all devices."""

import functools
import hashlib
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.extend.core import jaxpr_as_fun
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# How much of a device's memory an automatic chunk may take.
SHARE_OF_MEMORY = 0.5

Lanes = dict[str, np.ndarray]


class Program(NamedTuple):
    """fn, traced once: its jaxpr and the shape of what it returns."""

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
        result = jax.tree.map(jnp.asarray, fn(**dict(zip(names, values, strict=True))))
        if not jax.tree.leaves(result):
            msg = "fn returns no arrays; return a number, an array or a pytree of them"
            raise ValueError(msg)
        return result

    one = [jax.ShapeDtypeStruct((), values.dtype) for values in points.values()]
    jaxpr, shape = jax.make_jaxpr(of_arrays, return_shape=True)(*one)
    return Program(jaxpr, shape, names)


def device_mesh(mesh: Mesh | None = None, devices: Any = None) -> Mesh:
    """The given mesh, or one axis over the devices, by default all of all processes."""
    if mesh is not None:
        return mesh
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("lanes",), devices=devices, axis_types=(AxisType.Auto,))


class Chunk(NamedTuple):
    """The compiled program for so many lanes at a time, and the shape of what one lane returns.

    It keeps no jaxpr: JAX would take a constant inside for unchanged as long as that lives.
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
    """Compile for `size` lanes rounded up to a multiple of the devices."""
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
    """Files know the dtypes of numpy: bfloat16 and narrower ones become float32."""
    return np.dtype(np.float32) if np.dtype(dtype).kind == "V" else dtype


def prepared(fn: Callable[..., Any], points: Lanes, size: Any, mesh: Mesh) -> Chunk:
    """The program for chunks of `size` lanes (None: all, "auto": what fits), kept for later sweeps of fn."""
    lanes = len(next(iter(points.values())))
    dtypes = tuple((name, values.dtype.name) for name, values in points.items())
    try:
        return _prepared(fn, dtypes, lanes, size, mesh)
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return _prepared.__wrapped__(fn, dtypes, lanes, size, mesh)


@functools.lru_cache(maxsize=32)
def _prepared(
    fn: Callable[..., Any], dtypes: tuple[tuple[str, str], ...], lanes: int, size: Any, mesh: Mesh
) -> Chunk:
    points = {name: np.zeros((), dtype) for name, dtype in dtypes}
    program = traced(fn, points)
    if size == "auto":
        size = automatic_size(program, points, lanes, mesh)
    return compiled(program, points, lanes if size is None else min(size, lanes), mesh)


def automatic_size(program: Program, points: Lanes, lanes: int, mesh: Mesh) -> int:
    """As many lanes as fit into half of the memory, from the compiler's plans for few and for more lanes."""
    few, more = (compiled(program, points, k * mesh.size, mesh).bytes_a_device for k in (8, 64))
    a_lane = max((more - few) / 56, 1)
    return int(min(lanes, max(1, SHARE_OF_MEMORY * _memory() / a_lane) * mesh.size))


def _memory() -> float:
    """Bytes that one device has; CPU devices share the machine's."""
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    if limit:
        return float(limit)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / jax.local_device_count()


def _digest(program: Program, text: str) -> str:
    """A hash of the computation itself, with the constants it holds."""
    digest = hashlib.sha256(text.encode())
    digest.update(re.sub(r"0x[0-9a-f]+", "", str(program.jaxpr)).encode())
    for constant in _constants(program.jaxpr):
        digest.update(np.ascontiguousarray(jax.device_get(constant)).tobytes())
    return digest.hexdigest()


def _constants(jaxpr: Any) -> list[Any]:
    """Arrays held by a jaxpr or inside its equations, wherever this version of JAX keeps them."""
    found = list(getattr(jaxpr, "consts", []))
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        found += [x.val for x in equation.invars if hasattr(x, "val") and np.ndim(x.val) > 0]
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns"):
                found += _constants(inner)
    return found
