"""The leaderboard as an experiment of the report."""

from implicit_adam.paper.claims import Experiment
from implicit_adam.paper.leaderboard.claims import claims
from implicit_adam.paper.leaderboard.config import LeaderboardConfig, run
from implicit_adam.paper.leaderboard.picture import picture
from implicit_adam.paper.leaderboard.tables import tables

QUICK = LeaderboardConfig(
    full=(("bilinear", 1),), batched=(("wine", 64),), sizes=(32,), steps=40, saves=4, runs=4, budget=1e8
)
LEADERBOARD = Experiment(
    "Beyond the theorem: which equation for which settings",
    "the bilinear model, networks on digits and tables",
    LeaderboardConfig(),
    QUICK,
    run,
    claims,
    picture,
    "Adam with eps outside the root. The limit is what nobody can be better than in earnest: the optimizer "
    "itself from a start 1e-6 away, and of a mean run its standard error. An equation that needs the order "
    "of the mini-batches predicts the run in that order and says nothing of the mean run; carried memory "
    "the other way round. Its memories hold the means over the batches: where they are shorter than an "
    "epoch, as at the tame settings, they fluctuate, and the mean of the update is not the update of the "
    "means. At the edge its solver leaps one step at a time, which is the optimizer's own step: there it "
    "saves little, and is exact for no merit of the equation. *Too dear*: it would take more operations "
    "than the settings allow, as orders do that run the optimizer again over all that it remembers; the "
    "worst problem is then one of those that were run. The flows take one step of Tsit5 an interval, the "
    "equation with carried memory those of its own solver, to a thousandth of each leap. Gradients are "
    "counted as documented (`vector_field`), the solvers' own steps as they came.",
    tables,
)
