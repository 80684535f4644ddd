"""Everything of the paper that is checked here, by name."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import NamedTuple

from implicit_adam.paper.along_a_run import ALONG
from implicit_adam.paper.claims import Item
from implicit_adam.paper.figure1 import FIGURE1
from implicit_adam.paper.figure6 import FIGURE6
from implicit_adam.paper.figures45 import FIGURE4, FIGURE5
from implicit_adam.paper.reach import REACH
from implicit_adam.paper.shuffles import SGD
from implicit_adam.paper.special_cases import EXAMPLE21, GD, MOMENTUM
from implicit_adam.paper.table1 import TABLE1
from implicit_adam.paper.theorem import THEOREM
from implicit_adam.paper.three_regimes import THREE_REGIMES
from implicit_adam.paper.training.cifar_runs import CifarConfig
from implicit_adam.paper.training.network_runs import NetworkConfig
from implicit_adam.paper.valley import FIGURE2, FIGURE3

ITEMS: dict[str, Item] = {
    "figure1": FIGURE1,
    "table1": TABLE1,
    "figure2": FIGURE2,
    "figure3": FIGURE3,
    "theorem": THEOREM,
    "example21": EXAMPLE21,
    "gd": GD,
    "sgd": SGD,
    "momentum": MOMENTUM,
    "along": ALONG,
    "regimes": THREE_REGIMES,
    "figure4": FIGURE4,
    "figure5": FIGURE5,
    "figure6": FIGURE6,
    "reach": REACH,
}


class PaperSetting(NamedTuple):
    """What the paper trains and its step size."""

    model: str
    h: float


# Of Figures 4 and 5 h is given in a published review only.
PAPER_SETTINGS = {
    "figure4": PaperSetting("resnet50", 7.5e-5),
    "figure5": PaperSetting("resnet50", 1e-4),
    "figure6": PaperSetting("resnet101", 1e-4),
}


def on_cifar(name: str, setting: Callable[[NetworkConfig, PaperSetting], CifarConfig]) -> Item:
    """An item of Figures 4 to 6 with its networks trained on CIFAR at the same values of beta and rho."""
    item = ITEMS[name]
    networks = {
        field.name: setting(value, PAPER_SETTINGS[name])
        for field in fields(item.config)
        if isinstance(value := getattr(item.config, field.name), NetworkConfig)
    }
    config = replace(item.config, **networks)
    (first, *_) = networks.values()
    return item._replace(
        config=config,
        quick=config,
        subject=f"{first.training.model} on {first.dataset}",
        caveat="The paper trains a ResNet-50 on CIFAR-10 in Figures 4 and 5, and in Figure 6 a ResNet-101 on "
        "CIFAR-10 (left) and CIFAR-100 (right).",
    )
