"""What a sweep found, as arrays with named dimensions."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """Results over a grid.

    - `dims`: the names of the leading axes of everything below.
    - `coords`: the values along them; for a table all along "point".
    - `values`: fn's pytree, numpy arrays with the axes of the grid leading.
    - `ok`: whether all numbers of a lane are finite.
    """

    dims: tuple[str, ...]
    coords: dict[str, np.ndarray]
    values: Any
    ok: np.ndarray

    def variables(self) -> dict[str, np.ndarray]:
        """Leaves of `values` by name: their path in the pytree, joined by dots; "value" for a bare array.

        Raises `ValueError` where two paths read alike, or like a coordinate or "ok".
        """
        paths, _ = jax.tree_util.tree_flatten_with_path(self.values)
        named = [(".".join(map(_key, path)) or "value", leaf) for path, leaf in paths]
        taken = [*self.coords, *self.dims, "ok"]
        clashes = [name for i, (name, _) in enumerate(named) if name in taken + [x for x, _ in named[:i]]]
        if clashes:
            msg = f"results named {', '.join(clashes)} clash with an axis, with ok or each other; rename them"
            raise ValueError(msg)
        return dict(named)

    def to_xarray(self) -> Any:
        """An `xarray.Dataset` (needs xarray), to select from with its `sel`; further axes are NAME_0, .."""
        import xarray

        variables = {
            name: ((*self.dims, *(f"{name}_{i}" for i in range(leaf.ndim - len(self.dims)))), leaf)
            for name, leaf in self.variables().items()
        }
        coords = {
            name: (name if name in self.dims else self.dims, values) for name, values in self.coords.items()
        }
        return xarray.Dataset({**variables, "ok": (self.dims, self.ok)}, coords)

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` (needs pandas), a row a point; arrays become columns NAME_0, NAME_1, .."""
        import pandas

        points = dict(self.coords)
        if set(self.dims) == set(self.coords):
            mesh = np.meshgrid(*(self.coords[name] for name in self.dims), indexing="ij")
            points = {name: values.ravel() for name, values in zip(self.dims, mesh, strict=True)}
        columns = {}
        for name, leaf in self.variables().items():
            flat = leaf.reshape(self.ok.size, -1)
            single = leaf.ndim == len(self.dims)
            columns |= {name if single else f"{name}_{i}": flat[:, i] for i in range(flat.shape[1])}
        return pandas.DataFrame({**points, **columns, "ok": self.ok.ravel()})

    def save(self, path: Any) -> None:
        """Write one npz file, without pickle. Dicts, lists and tuples come back; other pytrees as dicts."""
        leaves: list[np.ndarray] = []
        layout = {"dims": self.dims, "coords": list(self.coords), "values": _layout(self.values, leaves)}
        arrays: Any = {f"value {i}": leaf for i, leaf in enumerate(leaves)}
        coords: Any = {f"coord {name}": values for name, values in self.coords.items()}
        with Path(path).open("wb") as file:
            np.savez(file, layout=np.asarray(json.dumps(layout)), ok=self.ok, **arrays, **coords)

    @staticmethod
    def load(path: Any) -> "SweepResult":
        """What `save` wrote. Raises `ValueError` for another file."""
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


def _key(entry: Any) -> str:
    return str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry))))


def _layout(tree: Any, leaves: list[np.ndarray]) -> Any:
    """The nesting in JSON, with the number of each leaf in its place."""
    if isinstance(tree, dict):
        return {"dict": {str(key): _layout(value, leaves) for key, value in tree.items()}}
    if hasattr(tree, "_asdict"):
        return _layout(tree._asdict(), leaves)
    if isinstance(tree, list | tuple):
        return {type(tree).__name__: [_layout(value, leaves) for value in tree]}
    if tree is None:
        return None
    if not isinstance(tree, np.ndarray | np.generic):
        paths, _ = jax.tree_util.tree_flatten_with_path(tree)
        return _layout({".".join(map(_key, path)): leaf for path, leaf in paths}, leaves)
    leaves.append(np.asarray(tree))
    return len(leaves) - 1


def _rebuilt(layout: Any, file: Any) -> Any:
    if layout is None:
        return None
    if isinstance(layout, int):
        return file[f"value {layout}"]
    ((kind, content),) = layout.items()
    if kind == "dict":
        return {key: _rebuilt(value, file) for key, value in content.items()}
    values = [_rebuilt(value, file) for value in content]
    return tuple(values) if kind == "tuple" else values
