"""The points of a sweep: a product of axes, or a list of points."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from implicit_adam.checks.numbers import plain_array

POINT = "point"


class Grid(NamedTuple):
    """The points of a sweep with named dimensions, and the same points as a list of N lanes.

    - `dims`: the swept names for a product of axes; ("point",) for a list of points.
    - `coords`: the 1-D values of each name, along the dimension of its own name or along "point"; kept as
      they were given, so that they can be looked up by value.
    - `points`: the values of each name for all N lanes, in row-major order, in the dtype of JAX.
    - `shape`: the shape of the results.
    """

    dims: tuple[str, ...]
    coords: dict[str, np.ndarray]
    points: dict[str, np.ndarray]
    shape: tuple[int, ...]

    @property
    def lanes(self) -> int:
        """The number of points."""
        return int(np.prod(self.shape))

    def table(self, lanes: np.ndarray) -> "Grid":
        """Some of its lanes, as a table."""
        places = dict(zip(self.dims, np.unravel_index(lanes, self.shape), strict=True))
        coords = {
            name: values[places[name if name in places else POINT]] for name, values in self.coords.items()
        }
        points = {name: values[lanes] for name, values in self.points.items()}
        return Grid((POINT,), coords, points, lanes.shape)


def as_grid(grid: Any, fn: Callable[..., Any]) -> Grid:
    """The checked `Grid` of a mapping of 1-D arrays (their product) or a sequence of points (mappings)."""
    if isinstance(grid, Mapping):
        checked = _product({str(name): _axis(name, values) for name, values in grid.items()})
    elif isinstance(grid, Sequence) and grid and all(isinstance(point, Mapping) for point in grid):
        checked = _table(grid)
    else:
        msg = (
            "grid must map names to 1-D arrays, {'beta': [0.5, 0.9], ..}, for their product, or be a list of "
            f"points [{{'beta': 0.5, 'rho': 0.9}}, ..], got {type(grid).__name__}"
        )
        raise ValueError(msg)
    check_names("fn", fn, tuple(checked.points))
    return checked


def _product(axes: dict[str, np.ndarray]) -> Grid:
    if not axes:
        msg = "grid is empty; name at least one argument of fn with its values"
        raise ValueError(msg)
    computed = {name: _computed(name, values) for name, values in axes.items()}
    for name, values in computed.items():
        if not (values[1:] > values[:-1]).all():
            msg = (
                f"grid: {name!r} must increase strictly in {values.dtype}, got {_few(values)}; "
                "sort its values, drop repeats"
            )
            raise ValueError(msg)
    mesh = np.meshgrid(*computed.values(), indexing="ij")
    points = {name: values.ravel() for name, values in zip(axes, mesh, strict=True)}
    return Grid(tuple(axes), axes, points, tuple(len(values) for values in axes.values()))


def _table(rows: Sequence[Mapping[str, Any]]) -> Grid:
    names = set(rows[0])
    if not names or any(set(row) != names for row in rows):
        msg = f"grid: every point must name the same arguments; the first names {sorted(map(str, names))}"
        raise ValueError(msg)
    coords = {str(name): _axis(name, [row[name] for row in rows]) for name in rows[0]}
    points = {name: _computed(name, values) for name, values in coords.items()}
    if len(set(zip(*(values.tolist() for values in points.values()), strict=True))) < len(rows):
        msg = "grid: the table repeats a point; drop repeats"
        raise ValueError(msg)
    return Grid((POINT,), coords, points, (len(rows),))


def _axis(name: Any, values: Any) -> np.ndarray:
    array = plain_array(f"grid: the values of {name!r}", values)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iuf":
        msg = (
            f"grid: the values of {name!r} must be a non-empty 1-D array of numbers, "
            f"got shape {array.shape} and dtype {array.dtype}"
        )
        raise ValueError(msg)
    if not np.isfinite(array).all():
        msg = f"grid: {name!r} holds NaN or infinity, {_few(array)}; only finite numbers are allowed"
        raise ValueError(msg)
    return array


def _computed(name: str, array: np.ndarray) -> np.ndarray:
    """The array in JAX's dtype, which without float64 is float32."""
    with np.errstate(over="ignore"):
        cast = array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
    # XLA treats subnormal numbers as 0.
    vanishes = array.dtype.kind == "f" and ((np.abs(cast) < np.finfo(cast.dtype).tiny) & (array != 0)).any()
    if vanishes or not np.isfinite(cast).all() or (array.dtype.kind in "iu" and (cast != array).any()):
        msg = f"grid: {name!r} does not fit into {cast.dtype}, {_few(array)}; enable float64 and int64 in JAX"
        raise ValueError(msg)
    return cast


def check_names(what: str, fn: Callable[..., Any], names: tuple[str, ...]) -> None:
    """Raise `ValueError` unless `fn` takes the names of the grid as keyword arguments."""
    if not callable(fn):
        msg = f"{what} must be a function of {', '.join(names)}, got {fn!r}; ia.sweep(fn, grid)"
        raise ValueError(msg)  # noqa: TRY004
    try:
        inspect.signature(fn).bind(**dict.fromkeys(names))
    except TypeError as error:
        msg = f"grid names {', '.join(names)}, which does not fit the arguments of {what}: {error}"
        raise ValueError(msg) from error


def _few(values: np.ndarray) -> str:
    shown = ", ".join(f"{x:g}" for x in values[:6])
    return f"[{shown}, ..]" if len(values) > 6 else f"[{shown}]"
