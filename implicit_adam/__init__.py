"""What does an optimizer implicitly do? Its modified equation, by autodiff: see README.md."""

import importlib
from typing import Any

from implicit_adam import rules as rules
from implicit_adam.bias.bias import bias as bias
from implicit_adam.bias.bias import perturbed_one_norm as perturbed_one_norm
from implicit_adam.bias.decomposition import Decomposition as Decomposition
from implicit_adam.bias.decomposition import decompose as decompose
from implicit_adam.bias.table1 import CELLS as CELLS
from implicit_adam.bias.table1 import Regimes as Regimes
from implicit_adam.bias.table1 import regimes as regimes
from implicit_adam.bias.with_bias import with_bias as with_bias
from implicit_adam.diagnosis.advice import Advice as Advice
from implicit_adam.diagnosis.advise import advise as advise
from implicit_adam.diagnosis.diagnose import Diagnosis as Diagnosis
from implicit_adam.diagnosis.diagnose import diagnose as diagnose
from implicit_adam.diagnosis.partial import PartialDiagnosis as PartialDiagnosis
from implicit_adam.diagnosis.probe import Probe as Probe
from implicit_adam.fields import limiting_field as limiting_field
from implicit_adam.fields import optax_vector_field as optax_vector_field
from implicit_adam.fields import vector_field as vector_field
from implicit_adam.fields.carried.carried_field import carried_field as carried_field
from implicit_adam.losses import modified_losses as modified_losses
from implicit_adam.losses import penalties as penalties
from implicit_adam.losses import problems as problems
from implicit_adam.losses.accumulated_loss import accumulated_loss as accumulated_loss
from implicit_adam.measures.convergence import Convergence as Convergence
from implicit_adam.measures.convergence import convergence as convergence
from implicit_adam.measures.observables import OBSERVABLES as OBSERVABLES
from implicit_adam.measures.observe import Observed as Observed
from implicit_adam.measures.observe import observe as observe
from implicit_adam.measures.sharpness import TopEigenvalue as TopEigenvalue
from implicit_adam.measures.sharpness import preconditioned_sharpness as preconditioned_sharpness
from implicit_adam.measures.sharpness import sharpness as sharpness
from implicit_adam.measures.stability import stability_threshold as stability_threshold
from implicit_adam.measures.training_regime import REGIMES as REGIMES
from implicit_adam.measures.training_regime import TrainingRegime as TrainingRegime
from implicit_adam.measures.training_regime import training_regime as training_regime
from implicit_adam.rules import AbstractRule as AbstractRule
from implicit_adam.rules import Adagrad as Adagrad
from implicit_adam.rules import Adam as Adam
from implicit_adam.rules import AdamW as AdamW
from implicit_adam.rules import AdEMAMix as AdEMAMix
from implicit_adam.rules import GradientDescent as GradientDescent
from implicit_adam.rules import HeavyBall as HeavyBall
from implicit_adam.rules import Lion as Lion
from implicit_adam.rules import NAdam as NAdam
from implicit_adam.rules import Nesterov as Nesterov
from implicit_adam.rules import Optax as Optax
from implicit_adam.rules import RMSProp as RMSProp
from implicit_adam.rules import Scheduled as Scheduled
from implicit_adam.rules import Signum as Signum
from implicit_adam.runs.carried_flow import carried_flow as carried_flow
from implicit_adam.runs.central_flow import CentralFlow as CentralFlow
from implicit_adam.runs.central_flow import central_flow as central_flow
from implicit_adam.runs.flow import flow as flow
from implicit_adam.runs.iterate import iterate as iterate
from implicit_adam.runs.memoryless import memoryless as memoryless
from implicit_adam.runs.smooth_flow import smooth_flow as smooth_flow
from implicit_adam.runs.trajectory import Trajectory as Trajectory
from implicit_adam.runs.validity import OutsideRangeWarning as OutsideRangeWarning
from implicit_adam.runs.validity import RoundingWarning as RoundingWarning
from implicit_adam.sweeps import SweepResult as SweepResult
from implicit_adam.sweeps import sweep as sweep

__version__ = "0.1.0"

# Imported on first use: ia.plotting, ia.networks, ia.datasets.
_LATER = ("datasets", "networks", "plotting")

__all__ = [
    "CELLS",
    "OBSERVABLES",
    "REGIMES",
    "AbstractRule",
    "AdEMAMix",
    "Adagrad",
    "Adam",
    "AdamW",
    "Advice",
    "CentralFlow",
    "Convergence",
    "Decomposition",
    "Diagnosis",
    "GradientDescent",
    "HeavyBall",
    "Lion",
    "NAdam",
    "Nesterov",
    "Observed",
    "Optax",
    "OutsideRangeWarning",
    "PartialDiagnosis",
    "Probe",
    "RMSProp",
    "Regimes",
    "RoundingWarning",
    "Scheduled",
    "Signum",
    "SweepResult",
    "TopEigenvalue",
    "TrainingRegime",
    "Trajectory",
    "accumulated_loss",
    "advise",
    "bias",
    "carried_field",
    "carried_flow",
    "central_flow",
    "convergence",
    "decompose",
    "diagnose",
    "flow",
    "iterate",
    "limiting_field",
    "memoryless",
    "modified_losses",
    "observe",
    "optax_vector_field",
    "penalties",
    "perturbed_one_norm",
    "preconditioned_sharpness",
    "problems",
    "regimes",
    "rules",
    "sharpness",
    "smooth_flow",
    "stability_threshold",
    "sweep",
    "training_regime",
    "vector_field",
    "with_bias",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return importlib.import_module(f"{__name__}.{name}")
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    """The public names, for tab completion, without internal submodules and helpers."""
    return sorted([*__all__, *_LATER, "__version__", "__doc__", "__file__", "__name__", "__path__"])
