"""Every optimizer of optax, each made with a short memory, for its modified equation to be measured."""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from implicit_adam.types import Params

ADAM: dict[str, Any] = {"b1": 0.5, "b2": 0.6, "eps": 1e-3, "eps_root": 0.1}
SHORT: dict[str, Any] = {"b1": 0.5, "b2": 0.6, "eps": 0.1}
Make = Callable[[float], Any]


def _adam(rate: float, **more: Any) -> optax.GradientTransformation:
    return optax.adam(rate, **ADAM, **more)


def _everywhere(params: Params) -> Any:
    return jax.tree.map(lambda _: True, params)


def _labels(params: Params) -> Any:
    return {name: name for name in params}


def _each(rate: float) -> dict[Any, optax.GradientTransformation]:
    return {"w": _adam(rate), "b": optax.sgd(rate)}


def _injected(inject: Any, rate: float) -> optax.GradientTransformation:
    return inject(optax.adam)(learning_rate=rate, **ADAM)


def _wave(n: Any) -> Any:
    return 0.75 + 0.25 * jnp.cos(n / 7)


def _always(step: Any, **_: Any) -> Any:
    return step >= 0


ALIASES: dict[str, dict[str, Any]] = {
    "adabelief": {"b1": 0.5, "b2": 0.6, "eps": 1e-3, "eps_root": 0.1},
    "adadelta": {"rho": 0.6, "eps": 10.0},
    "adafactor": {"min_dim_size_to_factor": 2, "eps": 0.1, "clipping_threshold": None},
    "adagrad": {"initial_accumulator_value": 0.1},
    "adam": ADAM,
    "adamax": SHORT,
    "adamaxw": {**SHORT, "weight_decay": 0.1},
    "adamw": {**ADAM, "weight_decay": 0.1},
    "adan": {"b1": 0.5, "b2": 0.6, "b3": 0.7, "eps": 0.3},
    "amsgrad": ADAM,
    "fromage": {},
    "lamb": {**ADAM, "weight_decay": 0.1},
    "lars": {"momentum": 0.5, "trust_coefficient": 1.0},
    "lbfgs": {},
    "lion": {"b1": 0.5, "b2": 0.6},
    "nadam": ADAM,
    "nadamw": ADAM,
    "noisy_sgd": {"key": 0},
    "novograd": {"b1": 0.5, "b2": 0.6, "eps": 0.1},
    "optimistic_adam": ADAM,
    "optimistic_adam_v2": ADAM,
    "optimistic_gradient_descent": {},
    "radam": {"b1": 0.5, "b2": 0.6, "eps_root": 0.1},
    "rmsprop": {"decay": 0.6, "eps": 0.1, "momentum": 0.5, "centered": True},
    "rprop": {},
    "sgd": {"momentum": 0.5, "nesterov": True},
    "sign_sgd": {},
    "signum": {"beta": 0.5},
    "sm3": {"momentum": 0.5},
    "yogi": {"b1": 0.5, "b2": 0.6, "eps": 0.3},
    "contrib.acprop": ADAM,
    "contrib.ademamix": {"b1": 0.5, "b2": 0.6, "b3": 0.7, "alpha": 0.8, "eps_root": 0.1},
    "contrib.adopt": {"b1": 0.5, "b2": 0.6, "eps": 0.1},
    "contrib.cocob": {},
    "contrib.dadapt_adamw": {},
    "contrib.dog": {},
    "contrib.dowg": {},
    "contrib.dpsgd": {"l2_norm_clip": 1.0, "noise_multiplier": 0.1, "seed": 0},
    "contrib.galore": {"rank": 1},
    "contrib.madgrad": {},
    "contrib.momo": {},
    "contrib.momo_adam": {},
    "contrib.muon": {"beta": 0.5, "adam_b1": 0.5, "adam_b2": 0.6, "adam_eps_root": 0.1},
    "contrib.prodigy": {},
    "contrib.schedule_free_adamw": {},
    "contrib.schedule_free_sgd": {},
    "contrib.simplified_ademamix": {"b1": 0.5, "b2": 0.6, "alpha": 0.8, "eps_root": 0.1},
    "contrib.sophia": {},
}  # fmt: skip

# Wrappers, chains and variants, with the transformations that they wrap.
COMPOSED: dict[str, tuple[str, Make]] = {
    "polyak_sgd": ("", optax.polyak_sgd),
    "adam, mu_dtype": ("mu_dtype=bfloat16", partial(_adam, mu_dtype=jnp.bfloat16)),
    "sgd, plain": ("", optax.sgd),
    "lion, smooth": (
        "scale_by_lion(mode='smooth')",
        lambda h: optax.chain(optax.scale_by_lion(0.5, 0.6, mode="smooth"), optax.scale(-h)),
    ),
    "chain": (
        "clip_by_global_norm(0.5), adam",
        lambda h: optax.chain(optax.clip_by_global_norm(0.5), _adam(h)),
    ),
    "chain, decay inside": (
        "add_decayed_weights(0.2), trace(0.5)",
        lambda h: optax.chain(optax.add_decayed_weights(0.2), optax.trace(0.5), optax.scale(-h)),
    ),
    "chain, nonnegative": (
        "adam, keep_params_nonnegative()",
        lambda h: optax.chain(_adam(h), optax.keep_params_nonnegative()),
    ),
    "chain, scheduled": (
        "adam, scale_by_schedule(a wave)",
        lambda h: optax.chain(_adam(h), optax.scale_by_schedule(_wave)),
    ),
    "named_chain": ("adam", lambda h: optax.named_chain(("adam", _adam(h)))),
    "MultiSteps": (
        "adam, 2",
        lambda h: optax.MultiSteps(_adam(h), 2, accumulator_dtype=float).gradient_transformation(),
    ),
    "apply_if_finite": ("adam, 5", lambda h: optax.apply_if_finite(_adam(h), 5)),
    "masked": ("adam, everything", lambda h: optax.masked(_adam(h), _everywhere)),
    "selective_transform": (
        "adam, w frozen",
        lambda h: optax.selective_transform(_adam(h), freeze_mask={"w": True, "b": False}),
    ),
    "partition": ("adam for w, sgd for b", lambda h: optax.partition(_each(h), _labels)),
    "multi_transform": ("adam for w, sgd for b", lambda h: optax.multi_transform(_each(h), _labels)),
    "inject_hyperparams": ("adam", partial(_injected, optax.inject_hyperparams)),
    "inject_stateful_hyperparams": ("adam", partial(_injected, optax.inject_stateful_hyperparams)),
    "flatten": ("adam", lambda h: optax.flatten(_adam(h))),
    "with_extra_args_support": ("adam", lambda h: optax.with_extra_args_support(_adam(h))),
    "conditionally_transform": ("adam, always", lambda h: optax.conditionally_transform(_adam(h), _always)),
    "conditionally_mask": ("adam, always", lambda h: optax.conditionally_mask(_adam(h), _always)),
    "lookahead": ("sgd, 2, 0.5", lambda h: optax.lookahead(optax.sgd(h), 2, 0.5)),
    "contrib.split_real_and_imaginary": ("adam", lambda h: optax.contrib.split_real_and_imaginary(_adam(h))),
    "contrib.mechanize": ("sgd", lambda h: optax.contrib.mechanize(optax.sgd(h))),
    "contrib.sam": (
        "adam, a normalized step of 0.05",
        lambda h: optax.contrib.sam(_adam(h), optax.chain(optax.contrib.normalize(), optax.sgd(0.05))),
    ),
    "contrib.schedule_free": ("sgd", lambda h: optax.contrib.schedule_free(optax.sgd(h), h, b1=0.5)),
}

# A function of optax with one of these parameters makes or wraps a whole optimizer, not a part of one.
TELLING = {"learning_rate", "max_learning_rate", "inner", "inner_factory", "optimizer", "base_optimizer"}
TELLING |= {"fast_optimizer", "opt", "transforms", "tx"}


def names() -> list[str]:
    """The names of all functions in optax and optax.contrib that make or wrap an optimizer."""
    found = []
    for prefix, module in (("", optax), ("contrib.", optax.contrib)):
        for name in dir(module):
            value = getattr(module, name)
            if name.startswith(("_", "scale_by_")) or not callable(value) or name.endswith("State"):
                continue
            try:
                parameters = set(signature(value).parameters)
            except ValueError:
                continue
            if parameters & TELLING or name in ("chain", "named_chain"):
                found.append(prefix + name)
    return found


def entries() -> dict[str, tuple[str, Make]]:
    """By name: the arguments as text, and a function from the learning rate to the transformation."""
    return {name: _alias(name, arguments) for name, arguments in ALIASES.items()} | COMPOSED


def _alias(name: str, arguments: dict[str, Any]) -> tuple[str, Make]:
    module, _, last = name.rpartition(".")
    factory = getattr(optax.contrib if module else optax, last)
    words = ", ".join(f"{key}={value}" for key, value in arguments.items())
    return words, lambda rate: factory(learning_rate=rate, **arguments)
