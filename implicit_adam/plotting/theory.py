"""Pictures of the theory: Figures 1 to 3, Table 1, the theorem, its special cases and its higher orders."""

from typing import Any

import numpy as np

from implicit_adam.paper.figure1 import Figure1, Figure1Config
from implicit_adam.paper.modified_flows import Orders
from implicit_adam.paper.reach import Reach, ReachConfig
from implicit_adam.paper.table1 import CELLS, Table1, Table1Config
from implicit_adam.paper.theorem import Theorem, TheoremConfig, studies
from implicit_adam.paper.valley import CROSS, Family, ValleyConfig
from implicit_adam.plotting.convergence import plot_studies
from implicit_adam.plotting.panels import panels, short, styled
from implicit_adam.plotting.plane import plot_level_sets, plot_path
from implicit_adam.plotting.style import COLOURS, MARKERS, flow_name, greek, log_ticks, shades


@styled
def figure1(config: Figure1Config, found: Figure1) -> Any:
    """The integrals of the braces over x in units of sqrt(eps), and how they begin."""
    figure, ((ax, start),) = panels(1, 2, 3.8, 3.2)
    root, first = config.eps**0.5, slice(len(found.x) // 10 + 1)
    for rho, closed, quadrature, colour in zip(
        found.rho, found.closed_form, found.quadrature, shades(len(found.rho)), strict=True
    ):
        ax.plot(found.x / root, closed / root, color=colour, label=rf"$\rho = {rho:g}$")
        ax.plot(found.x[::10] / root, quadrature[::10] / root, ".", color=colour)
        start.plot(found.x[first] / root, closed[first] / root, color=colour)
        start.plot(found.x[first] / root, quadrature[first] / root, ".", color=colour)
    for each in (ax, start):
        each.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        each.set(xlabel=r"gradient $x\,/\sqrt{\varepsilon}$")
    ax.set_ylabel(r"$\int_0^x \{\ldots\}\,d\sqrt{\varepsilon + y^2}\;/\sqrt{\varepsilon}$")
    ax.set_title(rf"$\beta = {config.beta:g}$; dots: quadrature of the bias")
    start.set_title("a small gradient is always penalised")
    ax.legend()
    return figure


@styled
def table1(config: Table1Config, found: Table1) -> Any:
    """The two cosines of every loss, a panel for each placement of eps, a row for each cell."""
    figure, (axes,) = panels(1, len(config.placements), 5.0, 2.6)
    rows = np.arange(len(CELLS))[::-1]
    for k, (ax, placement) in enumerate(zip(axes, config.placements, strict=True)):
        kinds = (
            (found.one_norm[k], r"$\nabla\|\nabla E\|_1$", 0.16),
            (found.two_norm[k], r"$\nabla\|\nabla E\|_2^2$", -0.16),
        )
        for i, (cosines, label, offset) in enumerate(kinds):
            y = np.broadcast_to((rows + offset)[:, None], cosines.shape)
            looks = {"color": COLOURS[i], "alpha": 0.35, "markersize": 4, "linewidth": 0}
            ax.plot(cosines.ravel(), y.ravel(), MARKERS[i], **looks)
            ax.plot([], [], MARKERS[i], color=COLOURS[i], label=label if k == 0 else None)
        ax.set_yticks(rows, labels=[greek(cell.words) for cell in CELLS] if k == 0 else [])
        ax.axvline(0, color="0.6", linewidth=0.8, zorder=0)
        ax.set(xlim=(-1.05, 1.05), xlabel=f"cosine with the bias, {config.losses} random losses")
        ax.set_title(greek(f"eps {placement} the root"))
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@styled
def valley(config: ValleyConfig, found: tuple[Family, ...]) -> Any:
    """Trajectories over the level sets, and the one-norm that they meet on the way down, Adam and its
    flow.
    """
    from matplotlib.lines import Line2D

    figure, axes = panels(2, len(found), 3.5, 3.0)
    for (plane, norms), varied, family in zip(axes.T, config.families, found, strict=True):
        _level_sets(plane, (0.3, 0.6), (2.95, 3.65))
        low, high = _around(family)
        inset = plane.inset_axes((0.6, 0.06, 0.38, 0.4))
        _level_sets(inset, low, high)
        for i, colour in enumerate(shades(len(family.values))):
            plot_path(family.adam[i], plane, label=f"{varied.values[i]:g}", colour=colour)
            plot_path(family.flow[i], plane, dashed=True)
            plot_path(family.adam[i], inset, colour=colour)
            for sums, style in ((family.adam_sum, "-"), (family.flow_sum, "--")):
                relative = 100 * (sums[i] / family.plain_sum[i] - 1)
                norms.semilogx(family.levels, relative, style, color=colour, linewidth=1.3)
        inset.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel="", ylabel="")
        inset.locator_params(nbins=2)
        inset.tick_params(labelsize=6, labeltop=True, labelbottom=False, bottom=False, top=True, pad=1)
        inset.spines[:].set_visible(True)
        plane.indicate_inset_zoom(inset, edgecolor="0.3")
        plane.plot(*CROSS, "x", color="k", markersize=7, markeredgewidth=1.8, zorder=5)
        fixed = ", ".join(f"{short(name)} = {value:g}" for name, value in varied.fixed if name != "eps")
        plane.set(title=f"several {short(varied.name)}; {fixed}")
        plane.legend(title=short(varied.name), loc="upper left", fontsize=7)
        norms.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        norms.invert_xaxis()
        norms.set(
            xlabel=r"level $c = 4\theta_1\theta_2 - 3$ on the way down",
            ylabel=r"$\|\nabla E\|_1$ relative to the plain flow's (%)",
        )
    lines = {"linewidth": 1.3, "color": "0.2"}
    handles = [
        Line2D([], [], label="Adam", **lines),
        Line2D([], [], linestyle="--", label="its flow, as far as it is valid", **lines),
        Line2D([], [], color="k", marker="x", linewidth=0, markeredgewidth=1.8, label="least one-norm"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


@styled
def theorem(_: TheoremConfig, found: Theorem) -> Any:
    """Errors against h, a row for full batch, cyclic and shuffled mini-batches."""
    return plot_studies(studies(found))


@styled
def orders(_: Any, found: Orders) -> Any:
    """Errors of the modified and of the plain flow against h."""
    figure, ((ax,),) = panels(1, 1, 4.2, 3.2)
    for i, (name, order, errors, slopes) in enumerate(
        (
            ("plain flow", found.order - 1, found.plain, found.plain_slope),
            ("flow of the modified loss", found.order, found.modified, found.modified_slope),
        )
    ):
        label = f"{name}, slope {slopes[-1]:.2f} (line: {order})"
        ax.loglog(found.h, errors, MARKERS[i], color=COLOURS[i], label=label)
        ax.loglog(
            found.h, errors[-1] * (found.h / found.h[-1]) ** order, color=COLOURS[i], linewidth=1, alpha=0.6
        )
    ax.set(xlabel=r"step size $h$", ylabel="largest distance to the iterates")
    log_ticks(ax)
    figure.legend(loc="outside upper center")
    return figure


@styled
def reach(config: ReachConfig, found: Reach) -> Any:
    """Errors relative to the distance travelled, a panel for each problem and pair of decays."""
    figure, axes = panels(len(config.problems), len(config.decays), 3.6, 2.7)
    for row, (name, _, eps), h, by_decays in zip(axes, config.problems, found.h, found.error, strict=True):
        for ax, (beta, rho), errors in zip(row, config.decays, by_decays, strict=True):
            for order, error in zip(config.orders, errors, strict=False):
                ax.loglog(
                    h, error, MARKERS[order] + "-", color=COLOURS[order], linewidth=1, label=flow_name(order)
                )
            ax.loglog(h, errors[-1], "x:", color="k", linewidth=1, label="unexpanded map of order 1")
            for accuracy in config.accuracies:
                ax.axhline(accuracy, color="0.7", linewidth=0.8, zorder=0)
                words = f"{100 * accuracy:g}%"
                ax.text(h[0], accuracy, words, color="0.5", ha="right", va="bottom", fontsize=7, clip_on=True)
            shown = errors[np.isfinite(errors)]
            ax.set(ylim=(max(shown.min() / 2, 1e-7), min(2 * shown.max(), 10)), xlabel=r"step size $h$")
            ax.set_title(rf"{name}, $\varepsilon = {_scientific(eps)}$: $\beta = {beta:g}$, $\rho = {rho:g}$")
        row[0].set_ylabel("largest error / distance travelled")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2 * len(config.decays))
    return figure


def _scientific(x: float) -> str:
    exponent = round(float(np.log10(x)))
    return f"10^{{{exponent}}}" if np.isclose(x, 10.0**exponent) else f"{x:g}"


def _level_sets(ax: Any, low: tuple[float, float], high: tuple[float, float]) -> None:
    x, y = np.linspace(low[0], high[0], 200), np.linspace(low[1], high[1], 200)
    # The signed root of the loss: its level sets are those of the loss, evenly spaced.
    plot_level_sets(x, y, 4 * x[None] * y[:, None] - 3, ax, minimum=0.0)


def _around(family: Family) -> tuple[tuple[float, float], tuple[float, float]]:
    """A square around the meeting points."""
    met = family.met[np.isfinite(family.met).all(axis=1)]
    middle, half = (met.min(axis=0) + met.max(axis=0)) / 2, 0.75 * max(np.ptp(met, axis=0).max(), 0.02)
    return tuple(middle - half), tuple(middle + half)
