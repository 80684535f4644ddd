"""`python -m benchmarks [NAME ..]`: print each ratio beside its target; without names write the report."""

import argparse
import os
from pathlib import Path

import jax

from benchmarks import (
    accelerator,
    convolutions,
    fields,
    memory,
    prediction,
    probe,
    report,
    rivals,
    scaling,
    startup,
    sweeps,
)
from benchmarks.measure import Measure, Measures, Missing

MEASURES: Measures = {
    **prediction.MEASURES,
    **fields.MEASURES,
    **convolutions.MEASURES,
    **probe.MEASURES,
    **rivals.MEASURES,
    **memory.MEASURES,
    **startup.MEASURES,
    **sweeps.MEASURES,
    **accelerator.MEASURES,
}


def run(name: str) -> Measure | Missing:
    """Run one measurement; `Missing` says why this machine cannot."""
    measure = MEASURES[name]()
    if isinstance(measure, Missing):
        print(f"{name}: skipped, needs {measure.what}", flush=True)
        return measure
    verdict = "reached" if measure.reached else "missed"
    print(f"{name}: {measure.what} = {measure.ratio:.3g} ({measure.relation} {measure.target:g}: {verdict})")
    for what, timing in measure.timings.items():
        print(f"    {what}: {timing.median:.3g} s, compilation {timing.compilation:.2g} s")
    for what, value in measure.facts.items():
        print(f"    {what}: {value:.3g}", flush=True)
    jax.clear_caches()
    return measure


def main() -> None:
    """Run the named measurements, or all of them and the scaling curves."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="measurements; all, and the report, by default"
    )
    parser.add_argument("--list", action="store_true", help="name the measurements and stop")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the report")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in MEASURES]
    if unknown:
        parser.error(f"unknown names {', '.join(unknown)}; --list names the known ones")
    if arguments.list:
        print("\n".join(MEASURES))
        return
    jax.config.update("jax_enable_x64", val=True)
    # Sweeps use one device per core; everything else runs on the first device, whose kernels use all cores.
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    results = {name: run(name) for name in arguments.names or MEASURES}
    if not arguments.names:
        curves = {}
        for name, curve in scaling.CURVES.items():
            print(f"scaling in {name} ..", flush=True)
            curves[name] = curve()
        arguments.out.mkdir(parents=True, exist_ok=True)
        report.write(arguments.out, results, curves)
        print(f"written: {arguments.out}/results.json, scaling.png, README.md")


if __name__ == "__main__":
    main()
