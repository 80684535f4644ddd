"""Alternatives that a user might write: eq. (10) literally, scipy on our field, PyTorch with torchdiffeq."""

from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

import implicit_adam as ia
from benchmarks.measure import Measure, Measures, Missing, ratio
from benchmarks.networks import dense_batches, dense_loss, dense_params, size
from benchmarks.timing import alternate
from implicit_adam.losses.problems import bilinear, digits
from implicit_adam.vectors import ravel, unravel_like

# One step of size H resolves the sign layers of width sqrt(EPS), so all solvers are equally accurate.
H, BETA, RHO, EPS = 1e-3, 0.9, 0.95, 1e-2


def literal_equation_10(loss, theta, batches, schedule):
    """Eq. (10) as printed: dense Hessians and the double sums over the whole history, as matrix products."""
    n = len(schedule) - 1
    g = jax.vmap(jax.grad(loss), (None, 0))(theta, batches)[schedule]
    H_k = jax.vmap(jax.hessian(loss), (None, 0))(theta, batches)
    steps = jnp.arange(n + 1)
    lag = steps[:, None] - steps[None]

    def kernel(decay):
        weights = jnp.where(lag >= 0, (1 - decay) * decay ** jnp.maximum(lag, 0), 0.0)
        return weights / (1 - decay ** (steps + 1))[:, None]

    M, R = kernel(BETA) @ g, jnp.sqrt(kernel(RHO) @ g**2 + EPS)
    w = M / R
    u = jnp.where((lag.T >= 0) & (steps[None] < n), 1.0, 0.0) @ w

    def along(v):
        return jax.vmap(lambda k, v: H_k[schedule[k]] @ v)(steps, v)

    Hu, Hw = along(u), along(jnp.broadcast_to(w[n], u.shape))
    L, L_bar = kernel(BETA)[n] @ Hu, kernel(BETA)[n] @ Hw
    P, P_bar = kernel(RHO)[n] @ (g * Hu), kernel(RHO)[n] @ (g * Hw)
    return -w[n] + H * (M[n] * (2 * P + P_bar) / (2 * R[n] ** 3) - (2 * L + L_bar) / (2 * R[n]))


def literal() -> Measure:
    """Our field compared with eq. (10) as printed, for p about 1000, m = 4, n = 100."""
    widths, n = (16, 20, 20, 10), 100
    params, batches = dense_params(widths, jnp.float64), dense_batches(4, 64, widths, jnp.float64)
    theta, unravel = ravel(params), unravel_like(params)

    def loss(theta, batch):
        return dense_loss(unravel(theta), batch)

    slow = jax.jit(lambda theta, batches: literal_equation_10(loss, theta, batches, jnp.arange(n + 1) % 4))
    fast = jax.jit(
        lambda theta, batches: ia.vector_field(
            ia.Adam(H, BETA, RHO, EPS, eps_in_sqrt=True), loss, batches=batches
        )(n, theta)
    )
    timings = alternate({"literal (10)": lambda: slow(theta, batches), "field": lambda: fast(theta, batches)})
    difference = jnp.max(jnp.abs(slow(theta, batches) - fast(theta, batches)))
    facts = {"largest difference of the two": float(difference)}
    return ratio(f"p = {size(params)}, m = 4, n = {n}", timings, "literal (10)", "field", ">=", 100, facts)


def _problem(name: str):
    problem = {"bilinear": bilinear, "digits": partial(digits, batches=1)}[name]()
    if problem.batches is None:
        return problem.params, problem.loss
    batch = jax.tree.map(lambda x: x[0], problem.batches)
    return problem.params, lambda params: problem.loss(params, batch)


def _ours(params, loss, steps: int):
    """Our flow with one step of Tsit5 per interval, as accurate as theirs; Heun, the default, is faster."""
    run = jax.jit(
        lambda params: ia.flow(
            ia.Adam(H, BETA, RHO, EPS, eps_in_sqrt=True),
            loss,
            params,
            steps,
            save_every=steps,
            solver=diffrax.Tsit5(),
        )
    )
    return lambda: ravel(jax.tree.map(lambda x: x[-1], run(params).params))


def solve_ivp(name: str, steps: int) -> Measure | Missing:
    """Our flow compared with scipy on our compiled field, restarted every interval, at the same accuracy."""
    try:
        from scipy.integrate import solve_ivp as solve
    except ImportError:
        return Missing("scipy")
    params, loss = _problem(name)
    unravel = unravel_like(params)
    field = jax.jit(
        lambda n, theta: ravel(
            ia.vector_field(ia.Adam(H, BETA, RHO, EPS, eps_in_sqrt=True), loss)(n, unravel(theta))
        )
    )

    def right_side(n, _time, theta):
        return np.asarray(field(n, theta))

    def theirs():
        theta = np.asarray(ravel(params))
        for n in range(steps):
            solution = solve(partial(right_side, n), (0.0, H), theta, method="RK45", rtol=1e-8, atol=1e-10)
            theta = solution.y[:, -1]
        return theta

    return _same_flow(f"{name}, {steps} intervals", "scipy", theirs, _ours(params, loss, steps))


def torchdiffeq(name: str, steps: int) -> Measure | Missing:
    """Our flow compared with torch.func and torchdiffeq in PyTorch, one Runge-Kutta step per interval."""
    try:
        from benchmarks.rivals_torch import torch_flow
    except ImportError:
        return Missing("torch and torchdiffeq, the extra `benchmarks`")
    params, loss = _problem(name)
    theirs = torch_flow(name, params, steps, (H, BETA, RHO, EPS))
    return _same_flow(f"{name}, {steps} intervals", "torchdiffeq", theirs, _ours(params, loss, steps))


def _same_flow(what: str, rival: str, theirs, ours) -> Measure:
    timings = alternate({rival: theirs, "flow": ours}, repeats=3, inner={"flow": 5})
    facts = {"largest difference of the end points": float(np.max(np.abs(theirs() - np.asarray(ours()))))}
    return ratio(f"piecewise flow, {what}", timings, rival, "flow", ">=", 20, facts)


MEASURES: Measures = {
    "literal": literal,
    "solve-ivp": partial(solve_ivp, "bilinear", 2000),
    "solve-ivp-digits": partial(solve_ivp, "digits", 50),
    "torchdiffeq": partial(torchdiffeq, "bilinear", 2000),
    "torchdiffeq-digits": partial(torchdiffeq, "digits", 50),
}
