"""`SweepResult`: the results of a sweep, as arrays with named dimensions."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from implicit_adam.files import named_leaves, save_arrays
from implicit_adam.reprs import listed, table


@dataclasses.dataclass(frozen=True, repr=False)
class SweepResult:
    """The results of a sweep over a grid, as numpy arrays whose leading axes are those of the grid.

    - `dims`: the names of the leading axes.
    - `coords`: the values along them, as they were given; for a list of points all along "point".
    - `values`: the pytree that fn returns, each array with the axes of the grid in front.
    - `ok`: for each point, whether all numbers are finite; for a run, its own flag `finite`.
    """

    dims: tuple[str, ...]
    coords: dict[str, np.ndarray]
    values: Any
    ok: np.ndarray

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.ok.shape))
        head = f"SweepResult over {', '.join(self.dims)}: {size} points, {int(self.ok.sum())} of them ok"
        return table(head, {**self.coords, **dict(_named(self.values))})

    def variables(self) -> dict[str, np.ndarray]:
        """Leaves of `values` by name: their path in the pytree, joined by dots; "value" for a bare array.

        Raises `ValueError` where two paths have the same name, or that of a coordinate or "ok".
        """
        named = _named(self.values)
        _check_distinct([*dict.fromkeys([*self.coords, *self.dims]), "ok", *(name for name, _ in named)])
        return dict(named)

    def to_xarray(self) -> Any:
        """The results as an `xarray.Dataset` (needs xarray); further axes of a variable are NAME_0, ..

        Raises `ValueError` where two names would coincide, such as an axis `theta_0` and a vector `theta`.
        """
        import xarray

        variables = self.variables()
        further = {name: _suffixed(name, range(leaf.ndim - self.ok.ndim)) for name, leaf in variables.items()}
        _check_distinct([*self._names(), *variables, *(name for names in further.values() for name in names)])
        data: Any = {name: ((*self.dims, *further[name]), leaf) for name, leaf in variables.items()}
        coords = {
            name: (name if name in self.dims else self.dims, values) for name, values in self.coords.items()
        }
        return xarray.Dataset({**data, "ok": (self.dims, self.ok)}, coords)

    def to_pandas(self) -> Any:
        """The results as a `pandas.DataFrame` (needs pandas) with one row per point.

        A vector becomes columns NAME_0, NAME_1, .., a matrix NAME_0_0, NAME_0_1, .. Raises `ValueError` where
        two names would coincide, such as an axis `theta_0` and a vector `theta`.
        """
        import pandas

        points = dict(self.coords)
        if set(self.dims) == set(self.coords):
            mesh = np.meshgrid(*(self.coords[name] for name in self.dims), indexing="ij")
            points = {name: values.ravel() for name, values in zip(self.dims, mesh, strict=True)}
        columns = []
        for name, leaf in self.variables().items():
            inner = leaf.shape[self.ok.ndim :]
            labels = _suffixed(name, ("_".join(map(str, i)) for i in np.ndindex(inner))) if inner else [name]
            columns += zip(labels, leaf.reshape(self.ok.size, -1).T, strict=True)
        _check_distinct([*self._names(), *(name for name, _ in columns)])
        return pandas.DataFrame({**points, **dict(columns), "ok": self.ok.ravel()})

    def save(self, path: Any) -> None:
        """Write one npz file, without pickle, whole or not at all.

        `load` restores dicts, lists and tuples; other pytrees come back as dicts.
        """
        leaves: list[np.ndarray] = []
        layout = {"dims": self.dims, "coords": list(self.coords), "values": _layout(self.values, leaves)}
        arrays = {f"value {i}": leaf for i, leaf in enumerate(leaves)}
        coords = {f"coord {name}": values for name, values in self.coords.items()}
        everything = {"layout": np.asarray(json.dumps(layout)), "ok": self.ok, **arrays, **coords}
        save_arrays(Path(path), everything, f"{path} was not written; what was there before is intact")

    def _names(self) -> list[str]:
        """The names of the result's own columns: dimensions, coordinates and "ok"."""
        return [*dict.fromkeys([*self.dims, *self.coords]), "ok"]

    @staticmethod
    def load(path: Any) -> "SweepResult":
        """Read a result that `save` wrote. Raises `ValueError` for any other file."""
        try:
            with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                layout = json.loads(str(file["layout"]))
                coords = {name: file[f"coord {name}"] for name in layout["coords"]}
                values = _rebuilt(layout["values"], file)
                return SweepResult(tuple(layout["dims"]), coords, values, file["ok"])
        except FileNotFoundError:
            raise
        except Exception as error:
            msg = f"{path} is not a result written by SweepResult.save ({error})"
            raise ValueError(msg) from error


def _named(values: Any) -> list[tuple[str, np.ndarray]]:
    return [(name or "value", leaf) for name, leaf in named_leaves(values, ".")]


def _suffixed(name: str, suffixes: Iterable[Any]) -> list[str]:
    return [f"{name}_{suffix}" for suffix in suffixes]


def _check_distinct(names: list[str]) -> None:
    """Raise `ValueError` for columns with the same name, of which all but the last would be lost."""
    clashes = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if clashes:
        msg = (
            f"the names {listed(clashes)} clash: each would stand for two columns, and one would be lost. "
            "An array NAME has the columns NAME_0, NAME_1, ..; the axes and ok have theirs. Rename what fn "
            "returns, or an axis (`values` and `coords` hold everything)"
        )
        raise ValueError(msg)


def _layout(tree: Any, leaves: list[np.ndarray]) -> Any:
    """The nesting of a pytree for JSON, with the number of each leaf in its place."""
    if isinstance(tree, dict):
        return {"dict": [[_json_key(key), _layout(value, leaves)] for key, value in tree.items()]}
    if hasattr(tree, "_asdict"):
        return _layout(tree._asdict(), leaves)
    if isinstance(tree, list | tuple):
        return {type(tree).__name__: [_layout(value, leaves) for value in tree]}
    if tree is None:
        return None
    if not isinstance(tree, np.ndarray | np.generic):
        named = _named(tree)
        _check_distinct([name for name, _ in named])
        return _layout(dict(named), leaves)
    leaves.append(np.asarray(tree))
    return len(leaves) - 1


def _json_key(key: Any) -> Any:
    """A dict's key in a form that JSON keeps, so that {0: x} comes back as {0: x}."""
    return key if isinstance(key, str | int) else str(key)


def _rebuilt(layout: Any, file: Any) -> Any:
    if layout is None:
        return None
    if isinstance(layout, int):
        return file[f"value {layout}"]
    ((kind, content),) = layout.items()
    if kind == "dict":
        return {key: _rebuilt(value, file) for key, value in content}
    values = [_rebuilt(value, file) for value in content]
    return tuple(values) if kind == "tuple" else values
