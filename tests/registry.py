"""Every rule, in every variant that changes its formulas, with memories short enough for the theorem."""

import jax.numpy as jnp

import implicit_adam as ia


def schedule(n):
    return 0.75 + 0.25 * jnp.cos(jnp.asarray(n, float) / 7)


CASES = {
    "adam": lambda h: ia.Adam(h, 0.5, 0.6, 0.1, eps_in_sqrt=True),
    "adam-eps-outside": lambda h: ia.Adam(h, 0.5, 0.6, 0.1, eps_in_sqrt=False),
    "rmsprop": lambda h: ia.RMSProp(h, 0.6, 0.1),
    "rmsprop-eps-outside": lambda h: ia.RMSProp(h, 0.6, 0.1, eps_in_sqrt=False),
    "rmsprop-corrected": lambda h: ia.RMSProp(h, 0.6, 0.1, bias_correction=True),
    "rmsprop-corrected-eps-outside": lambda h: ia.RMSProp(
        h, 0.6, 0.1, eps_in_sqrt=False, bias_correction=True
    ),
    "gradient-descent": lambda h: ia.GradientDescent(h),
    "heavy-ball": lambda h: ia.HeavyBall(h, 0.5),
    "nesterov": lambda h: ia.Nesterov(h, 0.5),
    "adamw": lambda h: ia.AdamW(h, 0.5, 0.6, 0.1, weight_decay=0.3, eps_in_sqrt=True),
    "adamw-eps-outside": lambda h: ia.AdamW(h, 0.5, 0.6, 0.1, eps_in_sqrt=False, weight_decay=0.3),
    "nadam": lambda h: ia.NAdam(h, 0.5, 0.6, 0.1, eps_in_sqrt=True),
    "lion": lambda h: ia.Lion(h, 0.5, 0.6, eps=0.5, weight_decay=0.3),
    "signum": lambda h: ia.Signum(h, 0.5, eps=0.5),
    "adagrad": lambda h: ia.Adagrad(h, initial_accumulator=0.2, eps=0.1),
    "ademamix": lambda h: ia.AdEMAMix(h, 0.5, 0.6, 0.7, 0.8, 0.1, eps_in_sqrt=True),
    "scheduled-adam": lambda h: ia.Scheduled(ia.Adam(h, 0.5, 0.6, 0.1, eps_in_sqrt=True), schedule),
}

# Where eps stands is an elementwise matter of the readout: the fields of all cases are compared.
# What concerns kernels, dtypes and lanes is tested without these.
OTHER_ROOTS = (
    "adam-eps-outside",
    "rmsprop-eps-outside",
    "rmsprop-corrected-eps-outside",
    "adamw-eps-outside",
)
ONE_ROOT = {name: build for name, build in CASES.items() if name not in OTHER_ROOTS}

NO_LIMIT = ("adagrad", "scheduled-adam")
# Its memory spans the whole run, so that h times memory is of the size of the horizon, however small h is.
NO_ASYMPTOTIC_REGIME = ("adagrad",)
