"""How well the closure predicts Adam at the edge: the mean loss, the centre, the top eigenvalue."""

from collections.abc import Iterator

import numpy as np

from implicit_adam.paper.claims import Claim, decided
from implicit_adam.paper.edge.runs import ADAM, CARRIED, CLOSURE, NEARBY, Curves, Edge, EdgeConfig

# Allowed errors: of the centre relative to the distance, of the mean loss, of the eigenvalue.
CENTRE, LOSS, EIGENVALUE = 0.01, 0.1, 0.03


def claims(config: EdgeConfig, found: Edge) -> tuple[Claim, ...]:
    """Three claims for each network."""
    return tuple(claim for name in config.networks for claim in _of(config, found, name))


def _of(config: EdgeConfig, found: Edge, network: str) -> Iterator[Claim]:
    curves = found.curves[network]
    yield _claim(curves, network, "mean_loss", LOSS, f"the loss, averaged over {config.mean} steps")
    yield _centre(curves, network, found.gradients[network])
    yield _claim(curves, network, "eigenvalue", EIGENVALUE, "the top preconditioned eigenvalue at the centre")


def _claim(curves: dict[str, Curves], network: str, what: str, close: float, words: str) -> Claim:
    adam = getattr(curves[ADAM], what)
    off = {name: np.abs(getattr(curves[name], what) / adam - 1) for name in (CLOSURE, CARRIED, NEARBY)}
    measured = "; ".join(
        f"{name}: at most {x.max():.1%}, {np.median(x):.1%} in the median, {x[-1]:.1%} at the end"
        for name, x in off.items()
    )
    largest = off[CLOSURE].max()
    return Claim(
        "beyond the paper",
        f"{network}: at the edge of stability the closure predicts {words}.",
        f"it is within {close:.0%} of Adam's throughout (by more: it did not hold)",
        measured,
        decided(held=largest <= close, refuted=largest > close),
    )


def _centre(curves: dict[str, Curves], network: str, gradients: dict[str, int]) -> Claim:
    errors = {name: curves[name].error for name in (CLOSURE, CARRIED, NEARBY)}
    words = "; ".join(f"{name}: at most {x.max():.2%}, at the end {x[-1]:.2%}" for name, x in errors.items())
    cost = ", ".join(f"{name} {n}" for name, n in gradients.items())
    largest = errors[CLOSURE].max()
    return Claim(
        "beyond the paper",
        f"{network}: it predicts the centre of the iterates.",
        f"within {CENTRE:.0%} of the distance that Adam travels, throughout (by more: it did not hold)",
        f"{words}. Gradients: {cost}",
        decided(held=largest <= CENTRE, refuted=largest > CENTRE),
    )
