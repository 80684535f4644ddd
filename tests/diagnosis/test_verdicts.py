"""The verdict on 34 quadratics where the iterates and the flows are known in closed form."""

import jax.numpy as jnp
import numpy as np
import pytest

import implicit_adam as ia
from implicit_adam.diagnosis.moment import FIRST
from implicit_adam.diagnosis.verdict import PREDICTS
from tests.diagnosis.test_diagnose import quadratic

SPECTRUM, START, HORIZON = np.array([0.5, 1.0, 4.0]), np.array([0.3, -0.8, 0.5]), 8
STEPS = np.concatenate([np.geomspace(1e-4, 0.3, 13), [0.52, 0.55, 0.58, 0.6]])


def iterates(h, b):
    """theta+ = theta - h m, m+ = b m + g, from rest."""
    theta, m, points = START, np.zeros(3), [START]
    for _ in range(FIRST + HORIZON):
        m = b * m + SPECTRUM * theta
        theta = theta - h * m
        points.append(theta)
    return points


def expected(h, b):
    """By closed forms: eqs. (1) and its first term; None where the error is too near to what is allowed."""
    if h * SPECTRUM[-1] > 2 * (1 + b):
        return "past the edge"
    points = iterates(h, b)
    here, end = points[FIRST], points[-1]
    plain = SPECTRUM / (1 - b)
    corrected = plain + h * (1 + b) / (1 - b) ** 3 * SPECTRUM**2 / 2
    for name, rate in (("plain", plain), ("corrected", corrected)):
        reached = here * np.exp(-h * HORIZON * rate)
        error = np.linalg.norm(reached - end) / np.linalg.norm(end - here)
        if PREDICTS / 1.3 < error < 1.3 * PREDICTS:
            return None
        if error < PREDICTS:
            return name
    return "carried or none"


@pytest.mark.parametrize("h", STEPS)
@pytest.mark.parametrize("b", [0.0, 0.5])
def test_the_verdict_is_that_of_the_closed_forms(h, b):
    h = h * (1 + b)
    rule = ia.HeavyBall(h, b) if b else ia.GradientDescent(h)
    found = ia.diagnose(rule, quadratic, jnp.asarray(START), horizon=HORIZON, iterations=3)
    said = expected(h, b)
    assert said is None or found.equation in (said, *("carried", "none") * (said == "carried or none"))


def test_a_small_curvature_is_said_to_two_digits():
    rule = ia.GradientDescent(6.2e-4)
    found = ia.diagnose(rule, quadratic, jnp.asarray(START), horizon=HORIZON, iterations=3)
    along = found.update_sharpness / found.threshold
    # The top eigenvalue over the threshold is 4 h / 2.
    said = f"feels is 0.0012 of its stability threshold, below the edge ({along:.2g} along the update)"
    assert said in found.verdict


def test_the_cases_are_of_every_kind():
    kinds = [expected(h * (1 + b), b) for b in (0.0, 0.5) for h in STEPS]
    assert len(kinds) == 34
    assert kinds.count(None) <= 5
    assert {"plain", "corrected", "past the edge", "carried or none"} <= set(kinds)
