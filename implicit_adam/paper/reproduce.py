"""All experiments by name: those on the paper's figures and claims, and those beyond it."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import NamedTuple

from implicit_adam.paper.claims import Experiment
from implicit_adam.paper.during_training import DURING_TRAINING
from implicit_adam.paper.edge.experiment import EDGE
from implicit_adam.paper.edge.mean_path_report import CENTRAL_FLOW
from implicit_adam.paper.edge.nearby_runs import NEARBY_RUNS
from implicit_adam.paper.figure1 import FIGURE1
from implicit_adam.paper.figures23 import FIGURE2, FIGURE3
from implicit_adam.paper.higher_orders import HIGHER_ORDERS
from implicit_adam.paper.leaderboard.experiment import LEADERBOARD
from implicit_adam.paper.norms.early_hills import EARLY_HILLS
from implicit_adam.paper.norms.figure6 import FIGURE6
from implicit_adam.paper.norms.figures45 import FIGURE4, FIGURE5
from implicit_adam.paper.norms.normalised import FIGURE4_NORMALISED, FIGURE5_NORMALISED
from implicit_adam.paper.practical_settings import PRACTICAL_SETTINGS
from implicit_adam.paper.shuffles import SGD
from implicit_adam.paper.special_cases import EXAMPLE21, GD, MOMENTUM
from implicit_adam.paper.spread import SPREAD_OF_RUNS
from implicit_adam.paper.table1 import TABLE1
from implicit_adam.paper.theorem import THEOREM
from implicit_adam.paper.three_regimes import THREE_REGIMES
from implicit_adam.paper.training.cifar_runs import CifarConfig
from implicit_adam.paper.training.network_runs import NetworkConfig

EXPERIMENTS: dict[str, Experiment] = {
    "figure1": FIGURE1,
    "table1": TABLE1,
    "figure2": FIGURE2,
    "figure3": FIGURE3,
    "theorem": THEOREM,
    "example21": EXAMPLE21,
    "gd": GD,
    "sgd": SGD,
    "momentum": MOMENTUM,
    "during-training": DURING_TRAINING,
    "regimes": THREE_REGIMES,
    "figure4": FIGURE4,
    "figure5": FIGURE5,
    "figure6": FIGURE6,
    "figure4-normalised": FIGURE4_NORMALISED,
    "figure5-normalised": FIGURE5_NORMALISED,
    "early-hills": EARLY_HILLS,
    "higher-orders": HIGHER_ORDERS,
    "practical-settings": PRACTICAL_SETTINGS,
    "edge": EDGE,
    "edge-nearby": NEARBY_RUNS,
    "central-flow": CENTRAL_FLOW,
    "leaderboard": LEADERBOARD,
    "spread": SPREAD_OF_RUNS,
}

# Experiments that run only when named, with the folder of their own report in the documentation.
BY_NAME_ONLY = {
    "practical-settings": "practical",
    "edge": "edge",
    "edge-nearby": "nearby",
    "central-flow": "central",
    "leaderboard": "leaderboard",
    "spread": "spread",
}


class PaperSetting(NamedTuple):
    """The paper's own network and step size, and its beta and rho for each panel, as far as known."""

    model: str
    h: float
    panels: dict[str, dict[str, tuple[float, ...]]]


# For Figures 4 and 5, h is given only in a published review, and the values varied only in the pictures.
PAPER_SETTINGS = {
    "figure4": PaperSetting(
        "resnet50", 7.5e-5, {"network": {"beta": (0.99,), "rho": (0.97, 0.98, 0.99, 0.995, 0.998, 0.999)}}
    ),
    "figure5": PaperSetting(
        "resnet50", 1e-4, {"network": {"beta": (0.9, 0.95, 0.97, 0.98, 0.99, 0.995), "rho": (0.999,)}}
    ),
    "figure6": PaperSetting(
        "resnet101",
        1e-4,
        {
            "left": {"beta": (0.9, 0.95, 0.97, 0.99), "rho": (0.999,)},
            "right": {"beta": (0.97,), "rho": (0.97, 0.98, 0.99, 0.999)},
        },
    ),
}


def on_cifar(name: str, setting: Callable[[NetworkConfig, PaperSetting], CifarConfig]) -> Experiment:
    """One of Figures 4 to 6, with networks trained on CIFAR at the paper's beta and rho."""
    experiment, paper = EXPERIMENTS[name], PAPER_SETTINGS[name]
    networks = {
        field.name: setting(replace(value, **paper.panels[field.name]), paper)
        for field in fields(experiment.config)
        if isinstance(value := getattr(experiment.config, field.name), NetworkConfig)
    }
    config = replace(experiment.config, **networks)
    (first, *_) = networks.values()
    return experiment._replace(
        config=config,
        quick=config,
        subject=f"{first.training.model} on {first.dataset}",
        caveat="The paper trains a ResNet-50 on CIFAR-10 in Figures 4 and 5, and in Figure 6 a ResNet-101 on "
        "CIFAR-10 (left) and CIFAR-100 (right).",
    )
