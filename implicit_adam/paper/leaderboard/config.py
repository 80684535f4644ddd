"""Runs all equations for Adam on the same problems, from tame settings to the edge of stability.

They are the sign-type flow, the further orders of the paper's series in h, two discrete maps, and the
equation with carried memory; in full batch, in mini-batches with a given order, and compared with the mean
over random orders.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from implicit_adam.losses.problems import Problem, bilinear
from implicit_adam.paper.claims import Advance
from implicit_adam.paper.classifiers import CLASSIFIERS
from implicit_adam.paper.leaderboard.equations import FULL, MEAN, ORDERED, Course
from implicit_adam.paper.leaderboard.race import Race, race
from implicit_adam.rules import Adam


@dataclass(frozen=True)
class Setting:
    """Adam's hyperparameters, with eps outside the root, and a name for them."""

    name: str
    h: float
    beta: float
    rho: float
    eps: float

    @property
    def rule(self) -> Adam:
        """Adam at this setting."""
        return Adam(self.h, self.beta, self.rho, self.eps)

    def __str__(self) -> str:
        return f"{self.name}: h {self.h:g}, beta {self.beta:g}, rho {self.rho:g}, eps {self.eps:g}"


TAME = Setting("tame", 1e-4, 0.5, 0.7, 1e-2)
LONGER = Setting("longer memory", 1e-4, 0.9, 0.99, 1e-3)
USUAL = Setting("usual", 1e-3, 0.9, 0.999, 1e-8)
# Ten times the step size, and no momentum, with which more curvature would be stable.
EDGE = Setting("edge", 1e-2, 0.0, 0.99, 1e-8)


@dataclass(frozen=True)
class LeaderboardConfig:
    """The problems with their numbers of samples, all in full batch and some in mini-batches; settings."""

    full: tuple[tuple[str, int], ...] = (
        ("bilinear", 1),
        ("wine", 128),
        ("breast cancer", 256),
        ("2-layer tanh network", 256),
        ("4-layer tanh network", 128),
        ("CNN", 48),
    )
    batched: tuple[tuple[str, int], ...] = (("breast cancer", 256), ("2-layer tanh network", 256))
    settings: tuple[Setting, ...] = (TAME, LONGER, USUAL, EDGE)
    batched_settings: tuple[Setting, ...] = (TAME, USUAL)
    sizes: tuple[int, ...] = (8, 64)
    steps: int = 200
    saves: int = 10
    # The number of random orders in a mean.
    runs: int = 16
    # Runs that would take more floating-point operations are skipped.
    budget: float = 1e11

    @property
    def columns(self) -> tuple["Column", ...]:
        """The columns of the leaderboard: kinds of runs at each setting."""
        full = [Column(FULL, setting, 0, self.full) for setting in self.settings]
        batched = [
            Column(kind, setting, size, self.batched)
            for kind in (ORDERED, MEAN)
            for size in self.sizes
            for setting in self.batched_settings
        ]
        return (*full, *batched)


@dataclass(frozen=True)
class Column:
    """One kind of runs at one setting; `size` is the number of samples in a mini-batch, 0 in full batch."""

    kind: str
    setting: Setting
    size: int
    problems: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        how = "full batch" if self.kind == FULL else f"batches of {self.size}"
        return f"{how}, {self.setting.name}"


class Leaderboard(NamedTuple):
    """The results of each column of the config, with axes (problems, competitors); see `Race`."""

    position: tuple[np.ndarray, ...]
    loss: tuple[np.ndarray, ...]
    gradients: tuple[np.ndarray, ...]
    seconds: tuple[np.ndarray, ...]
    why: tuple[np.ndarray, ...]
    turning: tuple[np.ndarray, ...]


def run(config: LeaderboardConfig, advance: Advance) -> Leaderboard:
    """Run every problem and kind of run, with all settings and competitors."""
    kinds = [(FULL, 0), *((kind, size) for kind in (ORDERED, MEAN) for size in config.sizes)]
    total = len(config.full) + (len(kinds) - 1) * len(config.batched)
    columns: list[list[Race]] = []
    done = 0
    for kind, size in kinds:
        settings = config.settings if kind == FULL else config.batched_settings
        races = []
        for name, samples in config.full if kind == FULL else config.batched:
            problem = _problem(name, samples, size)
            course = Course(problem.loss, config.steps, config.steps // config.saves)
            rules = [setting.rule for setting in settings]
            races.append(race(problem, rules, kind, course, runs=config.runs, budget=config.budget))
            done += 1
            advance(done / total)
        columns += [[_at(one, i) for one in races] for i in range(len(settings))]
    found = [tuple(np.stack(numbers) for numbers in zip(*column, strict=True)) for column in columns]
    return Leaderboard(*zip(*found, strict=True))


def _problem(name: str, samples: int, size: int) -> Problem:
    return bilinear() if name == "bilinear" else CLASSIFIERS[name](samples, samples // size if size else 1)


def _at(one: Race, i: int) -> Race:
    """The results at one setting."""
    return Race(*(numbers[i] for numbers in one))
