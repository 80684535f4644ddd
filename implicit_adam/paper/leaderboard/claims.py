"""The claims: where the expansion helps, where it harms, and where carried memory is better than both."""

from typing import Any

import numpy as np

from implicit_adam.paper.claims import Claim, decided
from implicit_adam.paper.leaderboard.config import EDGE, TAME, USUAL, Column, Leaderboard, LeaderboardConfig
from implicit_adam.paper.leaderboard.equations import COMPETITORS, FULL, MEAN
from implicit_adam.paper.leaderboard.words import percent

PLAIN, FIRST, CARRIED = (
    list(COMPETITORS).index(name)
    for name in ("sign-type flow (order 0)", "corrected flow (order 1)", "carried memory, order 1")
)
CLOSE = 0.01


def claims(config: LeaderboardConfig, found: Leaderboard) -> tuple[Claim, ...]:
    """The claims on where the expansion helps, where it harms, and where carried memory is better."""
    at = {
        (column.kind, column.setting): error
        for column, error in zip(config.columns, found.position, strict=True)
        if column.kind == FULL
    }
    means = [
        (column, errors)
        for column, errors in zip(config.columns, found.position, strict=True)
        if column.kind == MEAN
    ]
    tame, usual, edge = (
        at.get((FULL, setting), np.zeros((0, len(COMPETITORS) + 1))) for setting in (TAME, USUAL, EDGE)
    )
    return (
        _better(
            "Theorem 3.1",
            "At tame settings the paper's correction predicts Adam better than the flow without it.",
            config,
            tame,
            FIRST,
            PLAIN,
        ),
        _better(
            "section 6",
            "At usual settings it is the flow without the correction that predicts better.",
            config,
            usual,
            PLAIN,
            FIRST,
        ),
        *(
            _close(
                config,
                f"At {name} settings the equation with carried memory predicts Adam in full batch.",
                errors,
            )
            for name, errors in (("tame", tame), ("usual", usual), ("edge", edge))
        ),
        _mean(means),
    )


def _better(
    source: str, statement: str, config: LeaderboardConfig, errors: np.ndarray, one: int, other: int
) -> Claim:
    first, second = errors[:, one], errors[:, other]
    ran = ~np.isnan(first + second)
    words = (f"{percent(a)} against {percent(b)}" for a, b in zip(first, second, strict=True))
    return Claim(
        source,
        statement,
        "its error is the smaller one on every problem on which both were run (the larger one on every such "
        "problem: it did not hold)",
        _listed(config, words),
        decided(
            held=ran.any() and (first < second)[ran].all(), refuted=ran.any() and (first > second)[ran].all()
        ),
    )


def _close(config: LeaderboardConfig, statement: str, errors: np.ndarray) -> Claim:
    error, nearby = errors[:, CARRIED], errors[:, -1]
    words = (
        f"{percent(a)}" + (f" (a start nearby: {percent(b)})" if b >= CLOSE else "")
        for a, b in zip(error, nearby, strict=True)
    )
    judged = error[nearby < CLOSE]
    return Claim(
        "beyond the paper",
        statement,
        f"it is off by less than {CLOSE:.0%} of the distance travelled on every problem on which the "
        "optimizer itself, started again 1e-6 away, is (by more on one: it did not hold)",
        _listed(config, words),
        decided(held=len(judged) and (judged < CLOSE).all(), refuted=(judged >= CLOSE).any()),
    )


def _mean(means: list[tuple[Column, np.ndarray]]) -> Claim:
    words = [
        f"{column}: "
        + ", ".join(
            f"{percent(error)} on {name} with a standard error of {percent(sampling)}"
            for (name, _), error, sampling in zip(
                column.problems, errors[:, CARRIED], errors[:, -1], strict=True
            )
        )
        for column, errors in means
    ]
    error, allowed = (
        np.concatenate([errors[:, i] for _, errors in means] or [np.zeros(0)]) for i in (CARRIED, -1)
    )
    return Claim(
        "beyond the paper",
        "In mini-batches it predicts the mean run over random orders.",
        "it is off by less than twice the standard error of the mean of the runs (by more: it did not hold)",
        "; ".join(words),
        decided(held=error.size and (error < 2 * allowed).all(), refuted=(error >= 2 * allowed).any()),
    )


def _listed(config: LeaderboardConfig, words: Any) -> str:
    return "; ".join(f"{name}: {word}" for (name, _), word in zip(config.full, words, strict=False))
