"""The spread of runs in mini-batches: verdicts follow the data."""

import numpy as np
import pytest

from implicit_adam.paper.claims import DID_NOT_HOLD, HELD, UNDECIDED
from implicit_adam.paper.spread import SPREAD_OF_RUNS, Case, Spread, SpreadConfig
from tests.verdicts import verdicts

CONFIG = SpreadConfig((Case("wine", 8, 4, 10), Case("wine", 64, 32, 10, of_single=True)))


def found(own=1.0, single=1.0, small=1.0, large=1.0):
    """Adam has ones everywhere; of the equation the spread and the mean loss of each case."""
    one = np.ones(3)
    return tuple(
        Spread(np.arange(3), one, apart * one, one, 0 * one, loss * one, 2 * one)
        for apart, loss in ((own, small), (single, large))
    )


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [HELD, HELD, HELD]),
        ({"own": 1.21}, [DID_NOT_HOLD, HELD, HELD]),
        ({"single": 0.79}, [HELD, DID_NOT_HOLD, HELD]),
        ({"single": np.nan}, [HELD, UNDECIDED, HELD]),
        # In batches of four 2 % are allowed, in those of 32 one.
        ({"small": 1.015}, [HELD, HELD, HELD]),
        ({"large": 1.015}, [HELD, HELD, DID_NOT_HOLD]),
        ({"large": np.nan}, [HELD, HELD, UNDECIDED]),
    ],
)
def test_verdicts_follow_the_data(changed, expected):
    assert verdicts(SPREAD_OF_RUNS, found(**changed), CONFIG) == expected


def test_one_spread_of_several_that_is_not_finite_decides_nothing():
    config = SpreadConfig((Case("wine", 8, 4, 10), Case("wine", 8, 2, 10)))
    (finite, _), (broken, _) = found(), found(own=np.nan)
    for spreads in ((finite, broken), (broken, finite)):
        assert verdicts(SPREAD_OF_RUNS, spreads, config)[0] == UNDECIDED
