"""Through the edge of stability: verdicts follow the data."""

import numpy as np

from implicit_adam.paper.claims import DID_NOT_HOLD, HELD, UNDECIDED
from implicit_adam.paper.edge import ADAM, CARRIED, CLOSURE, EDGE, NEARBY, Curves, Edge

STEPS, STRETCHES = 11, 2


def found(off, error):
    """All curves are right but the closure's."""

    def curves(factor, error):
        each = np.ones(STRETCHES)
        along = np.ones(STEPS)
        return Curves(along, factor * each, along, error * each, factor * each)

    right = {name: curves(1.0, 0.0) for name in (ADAM, NEARBY, CARRIED)}
    return Edge(np.arange(STEPS), {**right, CLOSURE: curves(off, error)}, {CARRIED: 1, CLOSURE: 2})


def verdicts(off, error):
    return [claim.verdict for claim in EDGE.claims(EDGE.config, found(off, error))]


def test_verdicts_follow_the_data():
    assert verdicts(1.0, 0.001) == [HELD] * 3
    assert verdicts(1.05, 0.02) == [HELD, DID_NOT_HOLD, DID_NOT_HOLD]
    assert verdicts(np.nan, np.nan) == [UNDECIDED] * 3
