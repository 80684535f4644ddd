"""Error against cost: `python -m benchmarks.work_precision` writes docs/work-precision.md and its picture.

Whole runs of an optimizer at usual settings are predicted in different ways. The cost is counted in gradients
of the whole loss, so that it does not depend on the machine.
"""

from pathlib import Path
from typing import Any, NamedTuple

import diffrax
import jax
import numpy as np
from jax.flatten_util import ravel_pytree

import implicit_adam as ia
from implicit_adam.plotting import COLOURS, MARKERS, STYLE
from implicit_adam.runs.carried_flow import TOLERANCE
from implicit_adam.runs.carried_options import START
from implicit_adam.runs.leaps import RelativeToTheMove

STEPS, EVERY, SAMPLES = 1000, 50, 400
H = 1e-3
COARSER = (2, 5, 10, 25, 50)
TOLERANCES = (1e-2, TOLERANCE, 1e-4, 1e-5)
# Gradients per solver step, accepted or not; the plain flow takes one gradient per stage.
LEAP, BOSH, TSIT, PLAIN = 1, 3 * 2, 6 * 2, 2
DOCS = Path(__file__).parent.parent / "docs"


class Point(NamedTuple):
    """One prediction: gradients, and the largest distance from the optimizer over the distance travelled."""

    setting: str
    gradients: int
    error: float


def adam(k: int = 1) -> ia.Adam:
    """Adam at usual settings, or with k times the step size and memories equally long in time."""
    return ia.Adam(k * H, 0.9**k, 0.999**k)


def curves() -> dict[str, list[Point]]:
    """The predictions by every method, by name."""
    problem = ia.problems.digits(batches=1, samples=SAMPLES)
    loss, params, rule = problem.mean_loss, problem.params, adam()
    real = _flat(ia.iterate(rule, loss, params, STEPS, save_every=EVERY))
    travelled = np.linalg.norm(real - real[0], axis=1).max()

    def point(setting: str, gradients: int, run: Any) -> Point:
        error = np.linalg.norm(_flat(run) - real, axis=1).max() / travelled
        print(f"    {setting}: {gradients} gradients, error {error:.2g}", flush=True)
        return Point(setting, gradients, float(error) if run.finite else np.inf)

    def carried(solver: Any, each: int, tolerance: float) -> Point:
        leaps = solver is None
        pid = diffrax.PIDController(
            tolerance, 0, pcoeff=0.4, icoeff=0.3, factormax=2.0, dtmin=H if leaps else None
        )
        run = ia.carried_flow(
            rule,
            loss,
            params,
            STEPS,
            save_every=EVERY,
            solver=solver,
            stepsize_controller=RelativeToTheMove(pid),
        )
        tried: Any = run.solver_steps
        return point(f"tolerance {tolerance:.0e}", START + each * int(tried), run)

    with np.errstate(all="ignore"), jax.numpy_dtype_promotion("standard"):
        return {
            "carried flow, leaps (default)": [carried(None, LEAP, tolerance) for tolerance in TOLERANCES],
            "carried flow, Bosh3": [carried(diffrax.Bosh3(), BOSH, tolerance) for tolerance in TOLERANCES],
            "carried flow, Tsit5": [carried(diffrax.Tsit5(), TSIT, tolerance) for tolerance in TOLERANCES],
            "the optimizer in coarser steps": [
                point(
                    f"{k} h",
                    STEPS // k,
                    ia.iterate(adam(k), loss, params, STEPS // k, save_every=EVERY // k),
                )
                for k in COARSER
            ],
            "plain flow": [
                point(
                    "order 0",
                    PLAIN * STEPS,
                    ia.flow(rule, loss, params, STEPS, order=0, solver=diffrax.Heun(), save_every=EVERY),
                )
            ],
        }


def _flat(run: Any) -> np.ndarray:
    return np.asarray(jax.vmap(lambda saved: ravel_pytree(saved)[0])(run.params))


LINES = ("-", "--", ":", "-.", "")


def picture(found: dict[str, list[Point]]) -> Any:
    """A log-log plot of the error against gradients."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        ax = figure.subplots()
        looks = zip(("k", *COLOURS), (*MARKERS, "x"), LINES, strict=True)
        for (name, points), (colour, marker, line) in zip(found.items(), looks, strict=True):
            x, y = [p.gradients for p in points], [p.error for p in points]
            ax.loglog(x, y, marker + line, color=colour, label=name)
        ax.axvline(STEPS, color="0.7", linewidth=0.8, zorder=0)
        ax.annotate(
            "the optimizer itself",
            (STEPS, 0.02),
            (3, 0),
            xycoords=ax.get_xaxis_transform(),
            textcoords="offset points",
            color="0.4",
            fontsize=8,
        )
        ax.set(xlabel="gradients of the whole loss", ylabel="largest error / distance travelled")
        figure.legend(loc="outside right upper")
    return figure


def page(found: dict[str, list[Point]]) -> str:
    """The page of the documentation, in Markdown."""
    rows = [
        f"| {name} | {p.setting} | {p.gradients} | {_percent(p.error)} |"
        for name, points in found.items()
        for p in points
    ]
    table = "\n".join(["| prediction | setting | gradients | error |", "|---|---|---|---|", *rows])
    return PAGE.format(steps=STEPS, samples=SAMPLES, table=table)


def _percent(error: float) -> str:
    return f"{100 * error:.2g}%"


PAGE = """# Work and precision

Written by `python -m benchmarks.work_precision`.

What does a prediction cost, and how good is it? A run of {steps} steps of Adam at usual settings (learning
rate 1e-3, a small tanh network on {samples} digits, full batch, float64) is predicted in several ways. The
cost is counted in gradients of the whole loss; Adam itself takes {steps}. The error is the largest distance
from Adam at twenty points of the run, over the distance that it travels.

![Error against gradients](work-precision.png)

*Whatever lies to the right of the grey line costs more than running Adam.*

* **Leaps** are what `ia.carried_flow` does by default: each crosses many steps of the optimizer at one
  gradient. A leap of one step is the optimizer's own step. At tight tolerances more and more leaps are that
  short, and the error falls below that of the equation itself.
* **Bosh3** and **Tsit5** are Runge-Kutta methods from diffrax for the same equation, at two gradients for
  each evaluation. Their errors settle at that of the equation.
* **Coarser steps**: Adam itself with k times the step size and decays β^k, ρ^k, so that its memories last as
  long in time. This is what you can do without any equation.
* The **plain flow** has no memory, and no amount of work brings it closer. The corrected flow is
  [outside its range](theory.md#5-where-the-expansion-ends) here, and left out.

All this is far from the edge of stability. Close to it, leaps are as short as steps and save nothing
([limits](limits.md)).

{table}
"""


def main() -> None:
    """Run everything and write the results into docs/."""
    jax.config.update("jax_enable_x64", val=True)
    found = curves()
    picture(found).savefig(DOCS / "work-precision.png", dpi=130)
    (DOCS / "work-precision.md").write_text(page(found))


if __name__ == "__main__":
    main()
