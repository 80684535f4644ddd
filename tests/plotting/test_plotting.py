"""Every public plot draws on the Axes it is given, or on a new Figure, and labels them."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

import implicit_adam as ia
from implicit_adam import plotting
from implicit_adam.measures.convergence import Convergence
from implicit_adam.plotting.style import greek
from implicit_adam.sweeps import SweepResult

X = np.linspace(0.1, 1, 7)
GRID = {"beta": np.array([0.1, 0.5, 0.9]), "rho": np.array([0.2, 0.8])}


def study():
    h = np.array([0.1, 0.05, 0.025])
    error = {0: h, 1: h**2}
    numbers = {0: 1.0, 1: 2.0}
    slopes = {q: np.full(2, q + 1.0) for q in error}
    settled = {0: True, 1: True}
    steps = np.array([10, 20, 40])
    words = dict.fromkeys(error, "")
    return Convergence(
        h,
        steps,
        error,
        error,
        slopes,
        numbers,
        numbers,
        numbers,
        numbers,
        settled,
        verdict=words,
        why=words,
        rounding_floor=h,
        travelled=h,
        validity=h,
        remembered=h,
        roughness=h,
    )


def swept(dims=("beta", "rho")):
    shape = tuple(len(GRID[name]) for name in dims)
    values = {"factor": np.linspace(-1, 1, int(np.prod(shape))).reshape(shape)}
    return SweepResult(dims, {name: GRID[name] for name in dims}, values, np.ones(shape, bool))


ROWS = [{"step": n, "speed": 0.5, "memory": 0.4 * n, "decay": 0.0, "step_correction": 0.1} for n in (1, 2)]


def found():
    """What is drawn of a diagnosis."""
    return SimpleNamespace(
        error={"plain": 0.5, "corrected": np.nan, "carried": 1e-3},
        sampling_error=0.005,
        horizon=20,
        step=200,
        layers={"['blocks'][0]['w']": (0.3, 1.0), ".bias": (0.2, -1.0)},
    )


PLOTS = {
    "probe": lambda ax: plotting.plot_probe(ROWS, ax),
    "errors": lambda ax: plotting.plot_errors(found(), ax),
    "layers": lambda ax: plotting.plot_layers(found(), ax),
    "convergence": lambda ax: plotting.plot_convergence(study(), ax),
    "curves": lambda ax: plotting.plot_curves(X, {"a": np.stack([X, 2 * X]), "b": X}, ax),
    "trend": lambda ax: plotting.plot_trend([1, 2, 3], np.ones((3, 2)), ax, kept=[True, False, True]),
    "parts": lambda ax: plotting.plot_parts(X, {"memory": X, "discreteness": X**2}, ax),
    "level sets": lambda ax: plotting.plot_level_sets(X, X, X[:, None] * X, ax, minimum=0.5),
    "path": lambda ax: plotting.plot_path(np.stack([X, X**2], axis=1), ax, label="Adam", dashed=True),
    "distances": lambda ax: plotting.plot_distances(X, {0: X, 1: X**2}, ax),
    "curve": lambda ax: plotting.plot_curve(swept(("beta",)), "factor", ax),
    "heat map": lambda ax: plotting.plot_heat_map(swept(), "factor", ax),
}


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS.keys())
def test_a_plot_draws_on_the_axes_it_is_given(plot):
    figure = Figure()
    mine, other = figure.subplots(1, 2)
    assert plot(mine) is figure
    assert mine.has_data()
    assert not other.has_data()


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS.keys())
def test_a_plot_without_axes_makes_a_figure(plot, tmp_path):
    figure = plot(None)
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "plot.png")


def test_flows_against_iterates_show_the_distances_of_a_real_run():
    problem = ia.problems.quadratic()
    rule = ia.GradientDescent(0.1)
    run = ia.iterate(rule, problem.loss, problem.params, 10)
    flows = {q: ia.flow(rule, problem.loss, problem.params, 10, order=q) for q in (0, 1)}
    distances = {q: np.linalg.norm(flow.params - run.params, axis=1) for q, flow in flows.items()}
    ax = plotting.plot_distances(np.asarray(run.t), distances).axes[0]
    plain, corrected = (line.get_ydata() for line in ax.get_lines())
    assert (corrected < plain).all()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["plain flow", "corrected flow"]


def test_bands_reach_from_the_least_to_the_largest_seed():
    ax = plotting.plot_curves(X, {"a": np.stack([X, 3 * X])}).axes[0]
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), 2 * X)
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((X.min(), 3 * X.max()))


def test_a_curve_and_a_heat_map_take_the_axes_they_can_draw():
    for plot, dims in ((plotting.plot_curve, ("beta", "rho")), (plotting.plot_heat_map, ("beta",))):
        with pytest.raises(ValueError, match="a curve takes one axis, a heat map two"):
            plot(swept(dims), "factor")
    with pytest.raises(ValueError, match="no variable 'size'; it has factor"):
        plotting.plot_heat_map(swept(), "size")


def test_the_lines_of_a_study_are_named_by_their_order():
    one = study()._replace(error={1: X[:3] ** 2, 2: X[:3] ** 3}, slope={1: 2.0, 2: 3.0})
    (legend,) = plotting.plot_studies({"full batch": {"Adam, eps inside": one}}).legends
    words = [text.get_text() for text in legend.get_texts()]
    assert words == ["corrected flow (line: slope 2)", "order-2 flow (line: slope 3)"]


def test_words_become_the_papers_letters():
    assert greek("rho > beta, eps small") == r"$\rho$ $>$ $\beta$, $\varepsilon$ small"
    assert greek("steps") == "steps"


def cells(result):
    (mesh,) = [
        x
        for x in plotting.plot_heat_map(result, "factor").axes[0].collections
        if hasattr(x, "get_coordinates")
    ]
    corners = np.asarray(mesh.get_coordinates())
    return corners[0, :, 0], corners[:, 0, 1]


def over(x, y):
    return SweepResult(
        ("h", "beta"),
        {"h": x, "beta": y},
        {"factor": np.ones((len(x), len(y)))},
        np.ones((len(x), len(y)), bool),
    )


def test_the_cells_of_a_heat_map_are_of_one_width_on_the_scale_of_their_axis():
    h, beta = np.geomspace(1e-3, 1e-1, 5), np.linspace(0.0, 0.9, 4)
    edges_h, edges_beta = cells(over(h, beta))
    np.testing.assert_allclose(edges_h[1:] / edges_h[:-1], 10**0.5, rtol=1e-12)
    np.testing.assert_allclose(np.sqrt(edges_h[1:] * edges_h[:-1]), h, rtol=1e-12)
    np.testing.assert_allclose(np.diff(edges_beta), 0.3, rtol=1e-12)
    axis = plotting.plot_heat_map(over(h, beta), "factor").axes[0]
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "linear")


@pytest.mark.parametrize(
    "h", [[1e-4, 3e-4, 1e-3, 3e-3, 1e-2], [1.0, 2.0, 5.0, 10.0]], ids=["1, 3, 10", "1, 2, 5"]
)
def test_nearly_equal_ratios_make_a_logarithmic_axis_too(h):
    edges, _ = cells(over(np.array(h), np.array([0.1, 0.2])))
    ratios = edges[1:] / edges[:-1]
    assert ratios.max() < 1.6 * ratios.min()


def test_one_value_an_axis_is_a_cell_that_shows():
    for values in ([0.3], [0.0], [-2.0]):
        edges, _ = cells(over(np.array(values), np.array([0.5])))
        assert edges[0] < values[0] < edges[1]


def test_what_no_axis_or_colour_can_show_is_refused_in_words():
    table = SweepResult(("point",), {"x": X}, {"factor": X}, np.ones(7, bool))
    for plot in (plotting.plot_curve, plotting.plot_heat_map):
        with pytest.raises(ValueError, match="table of points"):
            plot(table, "factor")
    result = swept()
    with pytest.raises(ValueError, match="complex"):
        plotting.plot_heat_map(
            SweepResult(result.dims, result.coords, 1j * result.values["factor"], result.ok), "value"
        )


def test_sweeps_of_flags_and_of_nothing_finite_are_drawn():
    result = swept()
    for values in (result.values["factor"] > 0, np.full((3, 2), np.nan), np.full((3, 2), np.inf)):
        plotting.plot_heat_map(SweepResult(result.dims, result.coords, values, result.ok), "value")
        one = SweepResult(("beta",), {"beta": GRID["beta"]}, values[:, 0], result.ok[:, 0])
        plotting.plot_curve(one, "value")


def test_a_probe_draws_the_parts_that_are_there_and_a_diagnosis_the_errors_that_are_known():
    (ax,) = plotting.plot_probe(ROWS).axes
    assert [line.get_label() for line in ax.lines] == ["velocity", "memory", "step"]
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [0.4, 0.8])
    (ax,) = plotting.plot_errors(found()).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["plain", "carried"]
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], [50, 0.1])
    np.testing.assert_allclose(ax.lines[0].get_xdata(), 3)  # 2 % plus two standard errors
    (ax,) = plotting.plot_layers(found()).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["blocks, 0, w", "bias"]
