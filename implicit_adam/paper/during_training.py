"""Adam's bias along a run: its parts, its sign, and the effect of where eps stands (sections 1 and 2).

A network on real digits is trained in full batch with the usual hyperparameters, once with eps inside the
square root (Definition 1.1), once with the same eps outside, as Adam is commonly run. An eps of 1e-8 inside
has the effect of 1e-4 outside, so that a claim about it may hold for one and not for the other. Along the
run, the field is split into its parts and the bias compared with the gradient of the perturbed one-norm.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from implicit_adam.bias.decomposition import decompose
from implicit_adam.bias.table1 import regimes
from implicit_adam.losses.problems import digits
from implicit_adam.paper.claims import Advance, Claim, Experiment, decided
from implicit_adam.plotting.curves import plot_parts
from implicit_adam.plotting.panels import NORM, panels, styled
from implicit_adam.plotting.style import COLOURS, greek
from implicit_adam.rules import Adam
from implicit_adam.runs.iterate import iterate
from implicit_adam.vectors import ravel


@dataclass(frozen=True)
class DuringTrainingConfig:
    """The usual beta, rho, eps and h of Adam; there is one run for each placement of eps in `placements`."""

    h: float = 1e-3
    beta: float = 0.9
    rho: float = 0.999
    eps: float = 1e-8
    placements: tuple[str, ...] = ("inside", "outside")
    steps: int = 8000
    every: int = 40
    samples: int = 1796
    # The transient is judged after this many memory lengths 1/(1-rho).
    memories: int = 5


class Along(NamedTuple):
    """Norms of the parts of the field over that of the leading part, and the result of `ia.regimes`.

    Axes (placements, looks), and (looks,) for the step numbers `n`. `transient_at_start` is the transient
    part at step n, but at the start point, over the correction there for large n. `eps_small` is the share of
    coordinates with g^2 > 100 eps, or |g| > 100 eps if eps stands outside.
    """

    n: np.ndarray
    discreteness: np.ndarray
    memory: np.ndarray
    transient: np.ndarray
    transient_at_start: np.ndarray
    negative: np.ndarray
    alignment: np.ndarray
    eps_small: np.ndarray
    validity: np.ndarray
    loss: np.ndarray


def run(config: DuringTrainingConfig, advance: Advance) -> Along:
    """One run for each placement of eps."""
    runs = []
    for i, placement in enumerate(config.placements):
        runs.append(_look_along(config, placement))
        advance((i + 1) / len(config.placements))
    n = np.arange(0, config.steps + 1, config.every)
    return Along(n, *(np.stack(values) for values in zip(*runs, strict=True)))


def _look_along(config: DuringTrainingConfig, placement: str) -> tuple[np.ndarray, ...]:
    """Run the optimizer and measure at the saved points; returns all fields of `Along` but n."""
    problem = digits(batches=1, samples=config.samples)
    loss = problem.mean_loss
    rule = Adam(config.h, config.beta, config.rho, config.eps, eps_in_sqrt=placement == "inside")
    points = iterate(rule, loss, problem.params, config.steps, save_every=config.every).params
    n = jnp.arange(0, config.steps + 1, config.every)

    def look(n_and_params: tuple[Any, Any]) -> Any:
        n, params = n_and_params
        parts, start = decompose(rule, loss, params, n), decompose(rule, loss, problem.params, n)
        where = regimes(rule, loss, params)
        leading = _norm(parts.leading)
        return (
            _norm(parts.discreteness) / leading,
            _norm(parts.memory) / leading,
            _norm(parts.transient) / leading,
            _norm(start.transient) / _norm(jax.tree.map(jnp.add, start.discreteness, start.memory)),
            1 - where.positive,
            where.alignment,
            where.eps_small,
            where.validity,
            loss(params),
        )

    seen = jax.jit(lambda n, points: jax.lax.map(look, (n, points)))(n, points)
    return tuple(np.asarray(x) for x in seen)


def _norm(tree: Any) -> Any:
    return jnp.linalg.norm(ravel(tree))


def claims(config: DuringTrainingConfig, found: Along) -> tuple[Claim, ...]:
    """Anti-regularization is typical; eps is small; young memories are soon forgotten: for each placement."""
    made = []
    for i, placement in enumerate(config.placements):
        alone = Along(found.n, *(values[i] for values in found[1:]))
        made += _claims_for(config, alone, placement)
    return tuple(made)


def _claims_for(config: DuringTrainingConfig, found: Along, placement: str) -> tuple[Claim, ...]:
    against, along = (float((sign * found.alignment > 0).mean()) for sign in (-1, 1))
    small, large = float((found.eps_small > 0.5).mean()), float((found.eps_small <= 0.5).mean())
    late = config.memories / (1 - config.rho)
    beyond = found.transient_at_start[found.n >= late]
    rest = float(beyond.max()) if beyond.size else np.nan
    median = float(np.median(found.validity))
    setting = f"beta {config.beta:g}, rho {config.rho:g}, eps {config.eps:g}, h {config.h:g}"
    where = f"(eps {placement} the root)"
    size = "g^2" if placement == "inside" else "|g|"
    return (
        Claim(
            "abstract, section 1",
            f"The bias typically acts as anti-regularization {where}.",
            f"along the run ({setting}) the cosine of the bias with the gradient of the perturbed one-norm "
            "is negative at more than half of the steps looked at (positive: it did not hold)",
            f"negative at {against:.0%} of {len(found.n)} steps; median cosine "
            f"{np.median(found.alignment):+.3f}",
            decided(held=against > 0.5, refuted=along > 0.5),
        ),
        Claim(
            "section 2",
            "As eps is usually small, during most of the training the first extreme case describes Adam "
            f"better {where}.",
            f"at more than half of the steps over half of the coordinates have {size} > 100 eps (at more "
            "than half they do not: it did not hold)",
            f"at {small:.0%} of the steps; median share of such coordinates {np.median(found.eps_small):.0%}",
            decided(held=small > 0.5, refuted=large > 0.5),
        ),
        Claim(
            "section 2, Remark 3.2",
            f"The terms by which (10) differs from (3)-(4) rapidly go to zero as n grows {where}.",
            "at the start point they are below a twentieth of the correction late on from n = "
            f"{config.memories}/(1 - rho) on (larger: it did not hold)",
            f"largest share there {rest:.2%}, after {found.transient_at_start[0]:.0%} at n = 0",
            decided(held=rest < 0.05, refuted=rest >= 0.05),
        ),
        Claim(
            "section 6",
            "For very small eps the flow may be close to Adam for small, suboptimal learning rates only "
            f"{where}.",
            f"at the usual h = {config.h:g} the median over the run of the first correction relative to the "
            "leading field, which is proportional to h, is above 1: there the flow cannot be expected to be "
            "close (below 0.1: it did not hold)",
            f"median {median:.3g}; below 0.1 from h = {config.h * 0.1 / median:.1g} down",
            decided(held=median > 1, refuted=median < 0.1),
        ),
    )


@styled
def picture(config: DuringTrainingConfig, found: Along) -> Any:
    """A row for each placement of eps, with four panels.

    They show the parts of the field, the fading of the transient, the sign of the bias with the size of eps,
    and the loss.
    """
    figure, rows = panels(len(config.placements), 4, 3.6, 2.8)
    for i, (placement, row) in enumerate(zip(config.placements, rows, strict=True)):
        _along(config, Along(found.n, *(values[i] for values in found[1:])), placement, row)
    return figure


def _along(config: DuringTrainingConfig, found: Along, placement: str, row: Any) -> None:
    parts, young, signs, loss = row
    later = found.n > 0
    plot_parts(
        found.n[later],
        {
            "memory": found.memory[later],
            "discreteness": found.discreteness[later],
            "transient": found.transient[later],
        },
        parts,
    )
    parts.set(
        ylabel="norm / norm of the leading part", title=greek(f"eps {placement}: parts of the correction")
    )
    young.semilogy(found.n, found.transient_at_start, color=COLOURS[2])
    young.axvline(config.memories / (1 - config.rho), color="0.6", linewidth=0.8, zorder=0)
    young.annotate(
        rf"$n = {config.memories}/(1-\rho)$",
        (config.memories / (1 - config.rho), 1),
        xytext=(4, -4),
        textcoords="offset points",
        va="top",
    )
    young.set(xlabel="step $n$", ylabel="norm / norm of what it changes")
    young.set(title="the transient, at the start point")
    size = "g_j^2" if placement == "inside" else "|g_j|"
    signs.plot(found.n, found.alignment, color=COLOURS[0], label=r"cosine of bias and $\nabla$" + NORM)
    signs.plot(found.n, found.negative, color=COLOURS[1], label="share of negative braces")
    signs.plot(found.n, found.eps_small, color=COLOURS[2], label=rf"share of ${size} > 100\,\varepsilon$")
    signs.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    # Leaves room for the legend above 1, the largest share or cosine.
    signs.set(
        xlabel="step $n$", ylim=(-1.05, 1.95), yticks=(-1, -0.5, 0, 0.5, 1), title="the sign of the bias"
    )
    signs.legend(loc="upper right")
    loss.semilogy(found.n, found.loss, color=COLOURS[1])
    loss.set(xlabel="step $n$", ylabel="loss $E$", title="the run")


DURING_TRAINING = Experiment(
    "The bias along a run",
    "a small network on digits",
    DuringTrainingConfig(),
    DuringTrainingConfig(rho=0.99, steps=800, every=20, samples=400),
    run,
    claims,
    picture,
    "One small network from one start. Where the expansion's validity is not below about 0.1 the size of "
    "the correction is not to be trusted; its sign is what is counted here.",
)
