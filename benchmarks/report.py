"""Writes the results of a run of the benchmarks: results.json, scaling.png and the table in README.md."""

import json
import os
import platform
from pathlib import Path
from typing import Any

import jax

from benchmarks.measure import Measure, Missing
from benchmarks.scaling import Curve, picture
from implicit_adam.files import installed

PACKAGES = ("jax", "jaxlib", "numpy", "optax", "diffrax", "equinox", "scipy", "torch", "torchdiffeq")

README = """# Benchmarks

Ratios of things done side by side in one run, compiled before they are timed, medians. From a checkout:

```sh
python3 -m venv .venv && .venv/bin/pip install -e '.[benchmarks]' && .venv/bin/python -m benchmarks
```

takes about fifteen minutes on two cores and rewrites this page, `results.json` and `scaling.png`
(`python -m benchmarks NAME ..` prints single measurements and writes nothing; `--list` names them). PyTorch
is only needed for its two rows, which are skipped without it; the rows of the accelerator only appear where
JAX finds one.

Every figure below came out of one run on: {machine}.

| measurement | ratio | target | |
|---|---|---|---|
{rows}

A missed target stays in the table. What the hardware must do for a field, in gradients: 3 in full batch
(forward 1, gradient 3, a tangent of the gradient 6 products of matrices), and 1 + 2r in mini-batches with r
features; shifted gradients 2 and 1 + r.

## Seconds, compilation apart

| measurement | what | median | compilation |
|---|---|---|---|
{seconds}

## What else was found in the same runs

{facts}

## Scaling

![time against n, p, m and h](scaling.png)
"""


def machine() -> dict[str, Any]:
    """Cores, devices and library versions, without the machine's name."""
    versions = {"python": platform.python_version(), **installed(PACKAGES)}
    devices = sorted({device.device_kind for device in jax.devices()})
    return {"cores": len(os.sched_getaffinity(0)), "devices": devices, "versions": versions}


def write(folder: Path, results: dict[str, Measure | Missing], curves: dict[str, Curve]) -> None:
    """Write all three files."""
    measured = {name: result for name, result in results.items() if isinstance(result, Measure)}
    content = {
        "machine": machine(),
        "measurements": {name: _plain(result) for name, result in measured.items()},
        "skipped": {name: result.what for name, result in results.items() if isinstance(result, Missing)},
        "scaling": {name: curve._asdict() for name, curve in curves.items()},
    }
    (folder / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    picture(curves).savefig(folder / "scaling.png", dpi=120)
    (folder / "README.md").write_text(_page(content["machine"], measured))


def _plain(measure: Measure) -> dict[str, Any]:
    timings = {
        name: {"median": t.median, "compilation": t.compilation} for name, t in measure.timings.items()
    }
    return {**measure._asdict(), "timings": timings, "reached": measure.reached}


def _page(machine: dict[str, Any], measured: dict[str, Measure]) -> str:
    rows = "\n".join(
        f"| {x.what} | {x.ratio:.3g} | {x.relation} {x.target:g} | {'reached' if x.reached else 'missed'} |"
        for x in measured.values()
    )
    seconds = "\n".join(
        f"| {name} | {what} | {t.median:.3g} | {t.compilation:.2g} |"
        for name, x in measured.items()
        for what, t in x.timings.items()
    )
    facts = "\n".join(
        f"* `{name}`: " + ", ".join(f"{what} {value:.3g}" for what, value in x.facts.items())
        for name, x in measured.items()
        if x.facts
    )
    versions = ", ".join(f"{package} {number}" for package, number in machine["versions"].items())
    words = f"{machine['cores']} cores, {', '.join(machine['devices'])}; {versions}"
    return README.format(machine=words, rows=rows, seconds=seconds, facts=facts)
