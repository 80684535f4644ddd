"""`python -m benchmarks [NAME ..]`: print each ratio beside its target, and write the report.

With names nothing is written, unless with --update, which replaces their rows.
"""

import argparse
import os
from pathlib import Path

import jax

from benchmarks import (
    accelerator,
    carried,
    convolutions,
    fields,
    histories,
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
    **carried.MEASURES,
    **histories.MEASURES,
    **convolutions.MEASURES,
    **probe.MEASURES,
    **rivals.MEASURES,
    **memory.MEASURES,
    **startup.MEASURES,
    **sweeps.MEASURES,
    **accelerator.MEASURES,
}


def run(name: str) -> Measure | Missing | scaling.Curve:
    """Run one measurement, or the measurements of a curve; `Missing` says why this machine cannot."""
    if name in scaling.CURVES:
        print(f"{name}: scaling ..", flush=True)
        return scaling.CURVES[name]()
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
    parser.add_argument("--update", action="store_true", help="replace the rows of the names in the report")
    parser.add_argument("--list", action="store_true", help="name the measurements and stop")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the report")
    arguments = parser.parse_args()
    every = (*MEASURES, *scaling.CURVES)
    unknown = [name for name in arguments.names if name not in every]
    if unknown:
        parser.error(f"unknown names {', '.join(unknown)}; --list names the known ones")
    if arguments.list:
        print("\n".join(every))
        return
    jax.config.update("jax_enable_x64", val=True)
    # Sweeps use one device per core; everything else runs on the first device, whose kernels use all cores.
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    writes = arguments.update or not arguments.names
    differ = report.differences(arguments.out) if arguments.update and arguments.names else ""
    if differ:
        parser.error(
            f"the report is of another machine or other versions ({differ}): measure all, without names"
        )
    for name in arguments.names or every:
        result = run(name)
        if writes:
            report.add(arguments.out, MEASURES, name, result)
    if writes:
        print(f"written: {arguments.out}/{report.RESULTS}, scaling.png, README.md")


if __name__ == "__main__":
    main()
