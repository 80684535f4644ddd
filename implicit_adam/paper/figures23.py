"""Figures 2 and 3: the families of hyperparameters, and the paper's claims about them (see `valley`)."""

from dataclasses import replace

from implicit_adam.paper.claims import Experiment
from implicit_adam.paper.valley import BilinearConfig, Varied, run
from implicit_adam.paper.valley_claims import claims
from implicit_adam.paper.valley_picture import picture

FIGURE2_FAMILIES = (
    Varied(
        "beta",
        (0.0, 0.5, 0.8, 0.9, 0.95, 0.98),
        (("h", 1e-3), ("rho", 0.95), ("eps", 1e-8)),
        -1,
        "Increasing beta moves Adam to regions with a smaller one-norm of the gradient (Figure 2).",
    ),
    Varied(
        "rho",
        (0.5, 0.8, 0.9, 0.95, 0.98, 0.99),
        (("h", 1e-3), ("beta", 0.9), ("eps", 1e-8)),
        1,
        "Increasing rho does the opposite (Figure 2).",
    ),
)
FIGURE3_FAMILIES = (
    Varied(
        "h",
        (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3),
        (("beta", 0.95), ("rho", 0.5), ("eps", 1e-8)),
        -1,
        "Increasing the learning rate moves Adam to a smaller one-norm if beta is much larger than rho "
        "(Figure 3).",
    ),
    Varied(
        "h",
        (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3),
        (("beta", 0.5), ("rho", 0.95), ("eps", 1e-8)),
        1,
        "Increasing the learning rate does the opposite if rho is larger than beta (Figure 3).",
    ),
)


FIGURE2, FIGURE3 = (
    Experiment(
        title,
        "the bilinear model",
        BilinearConfig(families),
        BilinearConfig(tuple(replace(varied, values=varied.values[-2:]) for varied in families)),
        run,
        claims,
        picture,
        "eps stands inside the root, but for Remark 1.2.",
    )
    for title, families in (
        ("Figure 2: beta and rho on the bilinear model", FIGURE2_FAMILIES),
        ("Figure 3: the learning rate on the bilinear model", FIGURE3_FAMILIES),
    )
)
