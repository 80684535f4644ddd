"""Errors for unknown arguments of a rule that say what the intended hyperparameter is called here."""

import inspect

# Names of hyperparameters in optax, PyTorch and Keras, and in our rules (the first one that a rule has).
ELSEWHERE = {
    "learning_rate": ("h",),
    "lr": ("h",),
    "step_size": ("h",),
    "b1": ("beta", "beta1"),
    "beta1": ("beta",),
    "beta_1": ("beta", "beta1"),
    "momentum": ("beta",),
    "b2": ("rho", "beta2"),
    "beta2": ("rho",),
    "beta_2": ("rho", "beta2"),
    "decay": ("rho",),
    "alpha": ("rho",),
    "b3": ("beta_slow",),
    "epsilon": ("eps",),
    "eps_root": ("eps_in_sqrt",),
    "wd": ("weight_decay",),
    "initial_accumulator_value": ("initial_accumulator",),
}
# Where our name alone is not enough.
SAID_AS = {"eps_in_sqrt": "eps together with eps_in_sqrt=True"}
# For arguments that a rule lacks: what to use instead.
INSTEAD = {
    "weight_decay": "ia.AdamW",
    "nesterov": "ia.Nesterov or ia.NAdam",
    "betas": "beta and rho, in ia.Lion beta1 and beta2",
    "momentum": "ia.HeavyBall or ia.Nesterov, or for RMSProp ia.Optax(h, optax.rmsprop(1.0, momentum=..))",
    "centered": "ia.Optax(h, optax.rmsprop(1.0, centered=True))",
    "amsgrad": "ia.Optax(h, optax.amsgrad(1.0))",
    "mask": "ia.Optax(h, tx) with any optax transformation tx",
}


def check_arguments(rule: type, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    """Raise `ValueError` for an argument that the constructor does not take.

    Missing ones are left to Python, since copy and pickle first make an object without arguments.
    """
    signature = inspect.signature(rule.__init__)
    try:
        signature.bind_partial(None, *args, **kwargs)
    except TypeError as error:
        names = list(signature.parameters)[1:]
        translated = [_translation(name, names) for name in kwargs if name not in names]
        reason = "; ".join([str(error), *filter(None, translated)])
        msg = f"{rule.__name__}: {reason}; it is called as {rule.__name__}({_spelled(signature)})"
        raise ValueError(msg) from error


def _translation(name: str, ours: list[str]) -> str:
    known = next((own for own in ELSEWHERE.get(name, ()) if own in ours), None)
    if known is not None:
        return f"what is called {name} elsewhere is {SAID_AS.get(known, known)} here"
    return f"for {name} take {INSTEAD[name]}" if name in INSTEAD else ""


def _spelled(signature: inspect.Signature) -> str:
    """The arguments as text, e.g. `h, beta=0.9, *, eps_in_sqrt=False`."""
    parameters = [p.replace(annotation=p.empty) for p in list(signature.parameters.values())[1:]]
    return str(inspect.Signature(parameters))[1:-1]
