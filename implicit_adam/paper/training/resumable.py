"""The file from which a long run continues after an interruption, to the same bits."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.files import check_writable, save_arrays
from implicit_adam.rules import AbstractOptimizer

Logs = dict[str, list[float]]


class Resumable(NamedTuple):
    """The file of a run, and a fingerprint of everything that determines the run, by name."""

    path: Path
    fingerprint: dict[str, Any]

    def save(self, state: Any, logs: Logs) -> None:
        """Write the state's leaves and the logs atomically, so that an interruption leaves a whole file."""
        leaves = {f"state/{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
        arrays = {f"log/{name}": np.asarray(values, np.float64) for name, values in logs.items()}
        note = (
            f"{self.path} could not be written; an earlier one is intact, and the same call goes on from it"
        )
        save_arrays(self.path, {"fingerprint": json.dumps(self.fingerprint), **leaves, **arrays}, note)

    def load(self, like: Any) -> tuple[Any, Logs] | None:
        """The saved state, a pytree like `like`, and the logs; None if there is no file.

        Raises `ValueError` for a file of another run, or one that cannot be read.
        """
        if not self.path.exists():
            return None
        try:
            with self.path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = dict(file)
            found = json.loads(str(arrays["fingerprint"]))
        except Exception as error:
            msg = f"{self.path} is broken ({error}); remove it to begin anew, or name another folder"
            raise ValueError(msg) from error
        self._check(found)
        leaves, structure = jax.tree.flatten(like)
        state = [jnp.asarray(arrays[f"state/{i}"]) for i in range(len(leaves))]
        prefix = "log/"
        logs = {x.removeprefix(prefix): arrays[x].tolist() for x in arrays if x.startswith(prefix)}
        return jax.tree.unflatten(structure, state), logs

    def _check(self, found: dict[str, Any]) -> None:
        names = [*self.fingerprint, *(name for name in found if name not in self.fingerprint)]
        different = [
            f"{name} = {found.get(name)} there, {self.fingerprint.get(name)} here"
            for name in names
            if found.get(name) != self.fingerprint.get(name)
        ]
        if different:
            msg = f"{self.path} belongs to another run: {'; '.join(different)}; remove it or name another"
            raise ValueError(msg)


def resumable(folder: Any, name: str, fingerprint: Callable[[], dict[str, Any]]) -> Resumable | None:
    """The run's file in a folder, which is made and tested before anything runs; None without a folder."""
    if folder is None:
        return None
    return Resumable(check_writable("folder", folder) / f"{name}.npz", fingerprint())


def described(rule: AbstractOptimizer) -> dict[str, Any]:
    """An optimizer's name and hyperparameters as plain values.

    Raises `ValueError` for an optimizer that holds functions, which another process cannot compare.
    """
    values: dict[str, Any] = {"optimizer": type(rule).__name__}
    for field in fields(rule):
        value = getattr(rule, field.name)
        if not (eqx.is_array(value) or isinstance(value, bool)):
            msg = (
                f"{type(rule).__name__} holds a function ({field.name}), so that a checkpoint cannot tell it "
                "from another: run without a folder, or take an optimizer given by numbers such as ia.Adam"
            )
            raise ValueError(msg)
        # The shortest decimal for this number in its dtype: 0.9, not float32's 0.8999999762.
        values[field.name] = value if isinstance(value, bool) else float(str(np.asarray(value)[()]))
    return values
