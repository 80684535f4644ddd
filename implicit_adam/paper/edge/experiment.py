"""The edge of stability as an experiment of the report."""

from implicit_adam.paper.claims import Experiment
from implicit_adam.paper.edge.claims import claims
from implicit_adam.paper.edge.picture import picture
from implicit_adam.paper.edge.runs import EdgeConfig, run

EDGE = Experiment(
    "Beyond the theorem: through the edge of stability",
    "four small networks on digits",
    EdgeConfig(),
    EdgeConfig(networks=("deep linear network",), steps=60, samples=30, mean=20),
    run,
    claims,
    picture,
    "Squared loss, full batch. Amplitude: how far iterates are from their centre; of Adam from three "
    "consecutive ones, so that below the edge it shows the curvature of the path. The equation with carried "
    "memory is solved by a Runge-Kutta method: the leaps that `ia.carried_flow` takes by default are here of "
    "one step, which is the optimizer's own. Adam moved by 1e-6 at step 50, below the edge, shows what "
    "can be asked of an equation (`reproduce edge-nearby`).",
)
