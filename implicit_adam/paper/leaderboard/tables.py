"""The tables of the report: errors of position and of loss, and costs, run by run."""

from collections.abc import Callable

import numpy as np

from implicit_adam.paper.claims import Table
from implicit_adam.paper.leaderboard.config import Leaderboard, LeaderboardConfig
from implicit_adam.paper.leaderboard.equations import COMPETITORS, FULL, MEAN, ORDERED
from implicit_adam.paper.leaderboard.race import DOES_NOT_APPLY, TOO_DEAR
from implicit_adam.paper.leaderboard.words import error

NAMES = (*COMPETITORS, "limit: start 1e-6 away, standard error")


def tables(config: LeaderboardConfig, found: Leaderboard) -> tuple[Table, ...]:
    """The tables with errors of position and of loss, and costs, run by run."""
    return (
        _table(
            "Error of position, the largest over the run, in parts of the distance that the optimizer "
            "travels.",
            config,
            found,
            found.position,
            error,
        ),
        _table(
            "Error of the loss, the largest over the run, in parts of the loss.",
            config,
            found,
            found.loss,
            error,
        ),
        _table(
            "Full-batch gradients that it takes for a step of the optimizer, which takes 1 in full batch.",
            config,
            found,
            found.gradients,
            lambda x: f"{x:.2g}" if x < 10 else f"{x:.0f}",
            last=False,
        ),
        _table(
            "Seconds for the run, compiled.", config, found, found.seconds, lambda x: f"{x:.2g}", last=False
        ),
        _turning(config, found),
    )


def _table(
    title: str,
    config: LeaderboardConfig,
    found: Leaderboard,
    numbers: tuple[np.ndarray, ...],
    shown: Callable[[float], str],
    *,
    last: bool = True,
) -> Table:
    names = NAMES if last else tuple(COMPETITORS)
    rows = [
        (
            f"{column}{KINDS[column.kind]}, {problem}",
            *(WHY.get(int(why), shown(x)) for x, why in zip(values[: len(names)], reasons, strict=False)),
        )
        for column, by_problem, why_of in zip(config.columns, numbers, found.why, strict=True)
        for (problem, _), values, reasons in zip(column.problems, by_problem, why_of, strict=True)
    ]
    return Table(title, ("run", *names), tuple(rows))


KINDS = {FULL: "", ORDERED: " (given order)", MEAN: " (mean run)"}
WHY = {DOES_NOT_APPLY: "does not apply", TOO_DEAR: "too dear"}


def _turning(config: LeaderboardConfig, found: Leaderboard) -> Table:
    full = [(c, t) for c, t in zip(config.columns, found.turning, strict=True) if c.kind == FULL]
    rows = tuple((str(column), *(f"{x:.0%}" for x in turning)) for column, turning in full)
    title = "The share of Adam's steps that lead back: past the edge of stability its iterates alternate."
    return Table(title, ("runs", *(name for name, _ in config.full)), rows)
