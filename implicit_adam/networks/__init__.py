"""Image classifiers in pure JAX, with normalisation as an explicit choice."""

from implicit_adam.networks.base import Network as Network
from implicit_adam.networks.named import MODELS as MODELS
from implicit_adam.networks.named import choices as choices
from implicit_adam.networks.named import network as network

__all__ = [
    "MODELS",
    "Network",
    "choices",
    "network",
]


def __dir__() -> list[str]:
    """The public names, for tab completion."""
    return sorted(__all__)
