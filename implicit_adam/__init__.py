"""What does an optimizer implicitly do? Its modified equation, by autodiff: see README.md."""

from implicit_adam.convergence import Convergence as Convergence
from implicit_adam.convergence import convergence as convergence
from implicit_adam.fields import limiting_field as limiting_field
from implicit_adam.fields import optax_vector_field as optax_vector_field
from implicit_adam.fields import vector_field as vector_field
from implicit_adam.flow import flow as flow
from implicit_adam.iterate import iterate as iterate
from implicit_adam.observables import bias as bias
from implicit_adam.observables import perturbed_one_norm as perturbed_one_norm
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
from implicit_adam.trajectory import Trajectory as Trajectory
