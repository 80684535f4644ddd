"""The pictures of `implicit-adam reproduce`, one function for each item."""

from implicit_adam.plotting import theory, training
from implicit_adam.plotting.panels import Picture

PICTURES: dict[str, Picture] = {
    "figure1": theory.figure1,
    "table1": theory.table1,
    "figure2": theory.valley,
    "figure3": theory.valley,
    "theorem": theory.theorem,
    "example21": theory.orders,
    "gd": theory.orders,
    "sgd": theory.orders,
    "momentum": theory.orders,
    "along": training.along,
    "regimes": training.regimes,
    "figure4": training.trends,
    "figure5": training.trends,
    "figure6": training.figure6,
    "reach": theory.reach,
}
