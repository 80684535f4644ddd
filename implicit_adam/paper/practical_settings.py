"""Beyond the theorem: whole runs at the usual settings, predicted by the equation with carried memory.

h times memory is far from small there, and the flows that expand the memory in its length say nothing
(`validity`). The equation that keeps the memories as states (`fields.carried`) is compared with the optimizer
itself in full batch, and in mini-batches with the mean of runs with reshuffled epochs.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from implicit_adam.paper.claims import Advance, Experiment
from implicit_adam.paper.classifiers import CLASSIFIERS
from implicit_adam.paper.practical_cases import OPTIMIZERS, TWO_LAYERS, Case, PracticalConfig
from implicit_adam.paper.practical_claims import CLOSE, claims
from implicit_adam.plotting.panels import paired_panels, styled
from implicit_adam.plotting.style import COLOURS
from implicit_adam.studies.prediction import (
    CARRIED,
    CORRECTED,
    NEARBY,
    PLAIN,
    Prediction,
    predict,
    predict_batch_size,
)


def run(config: PracticalConfig, advance: Advance) -> tuple[Prediction, ...]:
    """Run and predict every case."""
    found = []
    for case in config.cases:
        problem = CLASSIFIERS[case.network](case.samples, case.samples if case.size else case.batches)
        rule = OPTIMIZERS[case.optimizer](case.h)
        if case.size:
            found.append(predict_batch_size(rule, problem, case.size, case.steps, config.saves, case.runs))
        else:
            found.append(predict(rule, problem, case.steps, config.saves, runs=case.runs, flows=case.flows))
        advance(len(found) / len(config.cases))
    return tuple(found)


LINES = {
    "optimizer": {"color": "0.75", "linewidth": 4.0},
    CARRIED: {"color": "k", "linewidth": 1.2},
    PLAIN: {"color": COLOURS[0], "linewidth": 1.0},
    CORRECTED: {"color": COLOURS[1], "linewidth": 1.0},
    NEARBY: {"color": "0.5", "linewidth": 0.8, "linestyle": ":"},
    "sampling error": {"color": COLOURS[2], "linewidth": 1.0, "linestyle": "--"},
}
COLUMNS = 5
# Of a picture that can be taken in at a glance.
FEW = (
    Case(TWO_LAYERS, flows=True),
    Case(TWO_LAYERS, "Muon", h=2e-3, steps=1000),
    Case("CNN", steps=400, samples=100),
    Case(TWO_LAYERS, batches=10, runs=16),
)


def more_pictures(config: PracticalConfig, found: tuple[Prediction, ...]) -> dict[str, Any]:
    """The same of a few of the cases."""
    few = [(case, one) for case, one in zip(config.cases, found, strict=True) if case in FEW]
    if not few:
        return {}
    cases, predictions = zip(*few, strict=True)
    return {"few": picture(replace(config, cases=cases), predictions)}


@styled
def picture(config: PracticalConfig, found: tuple[Prediction, ...]) -> Any:
    """Two panels for each case: the loss of the optimizer and its prediction, and below it the errors."""
    figure, pairs = paired_panels(len(found), COLUMNS, 2.5, 1.7)
    for (top, bottom), case, one in zip(pairs, config.cases, found, strict=True):
        _draw_loss(top, case, one)
        _draw_errors(bottom, one)
    for top, bottom in pairs[::COLUMNS]:
        top.set_ylabel("loss")
        bottom.set_ylabel("error / distance")
    _legend(figure)
    return figure


def _draw_loss(ax: Any, case: Case, one: Prediction) -> None:
    from matplotlib.ticker import NullFormatter

    ax.semilogy(one.steps, one.loss, **LINES["optimizer"])
    for name, loss in one.predicted_loss.items():
        if name == NEARBY:
            continue
        ax.semilogy(one.steps, np.where(loss < 3 * one.loss[0], loss, np.nan), **LINES[name])
    ax.set_ylim(0.6 * one.loss.min(), 3 * one.loss[0])
    batches = f", batches of {case.batch}" if case.batch < case.samples else ""
    drawn = " (single samples)" if case.size else ""
    ax.set_title(f"{case.optimizer}, $h$ = {case.h:g}{batches}\n{case.network}{drawn}", fontsize=8)
    ax.tick_params(labelbottom=False)
    ax.yaxis.set_minor_formatter(NullFormatter())


def _draw_errors(ax: Any, one: Prediction) -> None:
    for name, error in one.error.items():
        ax.semilogy(one.steps[1:], error[1:], **LINES[name])
    if one.sampling_error.any():
        ax.semilogy(one.steps[1:], one.sampling_error[1:], **LINES["sampling error"])
    ax.set(ylim=(1e-6, 10), xlabel="step")
    ax.axhline(CLOSE, color="0.85", linewidth=0.8, zorder=0)


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    words = {
        "optimizer": "the optimizer (mini-batches: mean of reshuffled runs)",
        CARRIED: "equation with carried memory",
        PLAIN: "plain flow",
        CORRECTED: "corrected flow (order 1)",
        NEARBY: "the optimizer from a start 1e-6 away",
        "sampling error": "standard error of the mean run",
    }
    handles = [Line2D([], [], label=word, **LINES[name]) for name, word in words.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)


PRACTICAL_SETTINGS = Experiment(
    "Beyond the theorem: whole runs at usual settings",
    "networks on digits and tables",
    PracticalConfig(),
    PracticalConfig(
        (
            Case(TWO_LAYERS, steps=200, samples=100, flows=True),
            Case("wine", steps=100, samples=176, batches=4, runs=4),
            Case("wine", steps=100, samples=176, size=22, runs=4),
        ),
        saves=5,
    ),
    run,
    claims,
    picture,
    "Everything but the step size is optax's default. Past the edge of stability, where iterates alternate, "
    "no smooth equation follows them; the transformer is near it from the start, which is why its runs "
    "from nearby starts part and why the equation takes as many gradients as the optimizer. From single "
    "samples: their gradients' variance, over the batch size, is all that the equation then knows of the "
    "mini-batches (`noise` in `ia.carried_flow`). Eq. (4): its bias, and what memory and step change of the "
    "carried velocity, along the gradient of the perturbed one-norm.",
    more_pictures=more_pictures,
)
