"""The report of the benchmarks: results.json, and from it scaling.png and the table in README.md.

Every result is written as soon as it is measured, into the results that are there; those of another machine,
or of other versions, are dropped (single rows are not replaced among them: `differences`).
"""

import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from benchmarks.measure import Measure, Missing
from benchmarks.scaling import CURVES, Curve, picture
from benchmarks.timing import Timing
from implicit_adam.files import installed

PACKAGES = ("jax", "jaxlib", "numpy", "optax", "diffrax", "equinox", "scipy", "torch", "torchdiffeq")
RESULTS = "results.json"

README = """# Benchmarks

Ratios of things done side by side in one run, compiled before they are timed, medians. From a checkout:

```sh
python3 -m venv .venv && .venv/bin/pip install -e '.[benchmarks]' && .venv/bin/python -m benchmarks
```

takes twenty minutes on two cores and writes this page, `results.json` and `scaling.png`, each result as
soon as it is measured. `python -m benchmarks NAME ..` prints single measurements, and with `--update`
replaces their rows; `--list` names them. PyTorch is only needed for its two rows.

Both figures of a ratio come out of one run, all of them on: {machine}.

| measurement | ratio | target | |
|---|---|---|---|
{rows}

A missed target stays in the table. What the hardware must do for a field, in gradients: 3 in full batch
(forward 1, gradient 3, a tangent of the gradient 6 products of matrices), and 1 + 2r in up to four
mini-batches with r features, 2 + 2r in more; shifted gradients 2 and 1 + r.

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


def differences(folder: Path) -> str:
    """What differs between this machine and that of the results in the folder; empty if nothing does."""
    path, here = folder / RESULTS, machine()
    there = json.loads(path.read_text())["machine"] if path.exists() else here
    then, now = ({**x, **x.get("versions", {})} for x in (there, here))
    keys = [key for key in then | now if key != "versions" and then.get(key) != now.get(key)]
    return ", ".join(f"{key} {then.get(key, 'none')} there, {now.get(key, 'none')} here" for key in keys)


def known(folder: Path) -> dict[str, Any]:
    """The results in the folder, if they are of this machine and these versions; else none."""
    path, here = folder / RESULTS, machine()
    found = json.loads(path.read_text()) if path.exists() else {}
    if found.get("machine") == here:
        return found
    return {"machine": here, "measurements": {}, "skipped": {}, "scaling": {}}


def add(folder: Path, order: Iterable[str], name: str, result: Measure | Missing | Curve) -> None:
    """Write one more result, and the page; measurements are listed in this order, others are dropped."""
    content = known(folder)
    if isinstance(result, Curve):
        content["scaling"][name] = result._asdict()
    else:
        content["measurements"].pop(name, None)
        content["skipped"].pop(name, None)
        kind = "skipped" if isinstance(result, Missing) else "measurements"
        content[kind][name] = result.what if isinstance(result, Missing) else _plain(result)
    for kind, names in (("measurements", order), ("skipped", order), ("scaling", CURVES)):
        content[kind] = {one: content[kind][one] for one in names if one in content[kind]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULTS).write_text(json.dumps(content, indent=1) + "\n")
    curves = {one: Curve(**curve) for one, curve in content["scaling"].items()}
    if curves:
        picture(curves).savefig(folder / "scaling.png", dpi=120)
    (folder / "README.md").write_text(_page(content))


def _plain(measure: Measure) -> dict[str, Any]:
    timings = {
        name: {"median": t.median, "compilation": t.compilation} for name, t in measure.timings.items()
    }
    return {**measure._asdict(), "timings": timings, "reached": measure.reached}


def _read(plain: dict[str, Any]) -> Measure:
    timings = {
        name: Timing(timing["median"] + timing["compilation"], timing["median"])
        for name, timing in plain["timings"].items()
    }
    kept = {name: value for name, value in plain.items() if name != "reached"}
    return Measure(**kept | {"timings": timings})


def _page(content: dict[str, Any]) -> str:
    machine, measured = content["machine"], {k: _read(x) for k, x in content["measurements"].items()}
    rows = [
        f"| {x.what} | {x.ratio:.3g} | {x.relation} {x.target:g} | {'reached' if x.reached else 'missed'} |"
        for x in measured.values()
    ]
    rows += [f"| {name} | | | not measured: needs {what} |" for name, what in content["skipped"].items()]
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
    return README.format(machine=words, rows="\n".join(rows), seconds=seconds, facts=facts)
