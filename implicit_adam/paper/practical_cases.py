"""The runs of `practical_settings`: optimizers at their usual settings, on small networks."""

from collections.abc import Callable
from dataclasses import dataclass

import optax

from implicit_adam.rules import AbstractOptimizer, Adam, AdamW, HeavyBall, NAdam, Optax, RMSProp

# Everything but the step size is optax's default, and momentum .9.
OPTIMIZERS: dict[str, Callable[[float], AbstractOptimizer]] = {
    "Adam": Adam,
    "AdamW": AdamW,
    "NAdam": NAdam,
    "RMSProp": RMSProp,
    "SGD with momentum": lambda h: HeavyBall(h, 0.9),
    "Muon": lambda h: Optax(h, optax.contrib.muon(1.0)),
}
TWO_LAYERS = "2-layer tanh network"


@dataclass(frozen=True)
class Case:
    """An optimizer of `OPTIMIZERS` on a network of `CLASSIFIERS`.

    - `batches`: the number of mini-batches, used in a new order every epoch. Or `size`: the number of samples
      in a mini-batch, drawn anew every epoch; the run is then predicted from the gradients of single samples.
    - `flows`: whether to solve the expanded flows, too.
    """

    network: str
    optimizer: str = "Adam"
    h: float = 1e-3
    steps: int = 2000
    samples: int = 400
    batches: int = 1
    size: int = 0
    runs: int = 1
    flows: bool = False

    @property
    def batch(self) -> int:
        """The number of samples per step."""
        return self.size or self.samples // self.batches

    @property
    def words(self) -> str:
        """The batch size in words; empty in full batch."""
        how = f" from single samples, batches of {self.batch}" if self.size else f", batches of {self.batch}"
        return how if self.batch < self.samples else ""

    def __str__(self) -> str:
        return f"{self.optimizer} {self.h:g} on {self.network}{self.words}"


@dataclass(frozen=True)
class PracticalConfig:
    """The runs, and how many times each is saved."""

    cases: tuple[Case, ...] = (
        Case(TWO_LAYERS, flows=True),
        Case(TWO_LAYERS, "AdamW", flows=True),
        Case(TWO_LAYERS, "NAdam", flows=True),
        Case(TWO_LAYERS, "RMSProp", flows=True),
        Case(TWO_LAYERS, "SGD with momentum", h=0.1, flows=True),
        Case(TWO_LAYERS, "Muon", h=2e-3, steps=1000),
        Case("4-layer tanh network", steps=1000),
        Case("CNN", steps=400, samples=100),
        Case("transformer", h=3e-4, steps=200, samples=32),
        Case(TWO_LAYERS, batches=10, runs=16),
        Case(TWO_LAYERS, batches=50, runs=16),
        Case("breast cancer", steps=600, samples=560, batches=10, runs=24),
        Case("breast cancer", steps=1200, samples=560, batches=40, runs=24),
        Case("wine", steps=1000, samples=176, batches=11, runs=24),
        Case("wine", steps=600, samples=176, size=4, runs=24),
        Case("wine", steps=600, samples=176, size=44, runs=24),
        Case("breast cancer", steps=600, samples=560, size=8, runs=24),
        Case("breast cancer", steps=600, samples=560, size=32, runs=24),
        Case(TWO_LAYERS, steps=1000, size=8, runs=16),
        Case(TWO_LAYERS, steps=1000, size=40, runs=16),
    )
    saves: int = 20
