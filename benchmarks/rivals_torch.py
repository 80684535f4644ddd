"""Adam's piecewise flow as a PyTorch user would write it, with torch.func and torchdiffeq."""

import jax
import numpy as np
import torch
from torch.func import grad, jvp
from torchdiffeq import odeint

from implicit_adam.losses.problems import digits
from implicit_adam.vectors import ravel


def _bilinear(theta):
    return (3 / 2 - 2 * theta[0] * theta[1]) ** 2 / 2


def _digits():
    problem = digits(batches=1)
    x, y = (torch.tensor(np.asarray(leaf[0])) for leaf in problem.batches)
    shapes = {name: leaf.shape for name, leaf in sorted(problem.params.items())}

    def loss(theta):
        parts, start = {}, 0
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            parts[name], start = theta[start : start + size].reshape(shape), start + size
        hidden = torch.tanh(x @ parts["w1"] + parts["b1"])
        logits = hidden @ parts["w2"] + parts["b2"]
        return -(y * torch.log_softmax(logits, dim=-1)).sum(-1).mean()

    return loss


def torch_flow(name: str, params, steps: int, hyperparameters):
    """A function without arguments that integrates the flow and returns its end point."""
    h, beta, rho, eps = hyperparameters
    loss = {"bilinear": lambda: _bilinear, "digits": _digits}[name]()
    gradient = grad(loss)
    start = torch.tensor(np.asarray(jax.device_get(ravel(params))))

    def lag(n, b):
        return b / (1 - b) - (n + 1) * b ** (n + 1) / (1 - b ** (n + 1))

    def field(n, theta):
        g = gradient(theta)
        R = torch.sqrt(g**2 + eps)
        _, D = jvp(gradient, (theta,), (g / R,))
        memory = g * (lag(n, rho) + 1 / 2) * g * D / R**3 - (lag(n, beta) + 1 / 2) * D / R
        return -g / R + h * memory

    def run():
        theta = start
        times = torch.tensor([0.0, h], dtype=start.dtype)
        for n in range(steps):
            theta = odeint(lambda t, theta, n=n: field(n, theta), theta, times, method="rk4")[-1]
        return theta.numpy()

    return run
