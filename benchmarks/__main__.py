"""`python -m benchmarks [NAME ..]`: print each ratio beside its target."""

import sys

import jax

from benchmarks.measures import MEASURES


def main(names: list[str]) -> None:
    """Run the named measures, by default all."""
    jax.config.update("jax_enable_x64", val=True)
    for name in names or MEASURES:
        measure = MEASURES[name]()
        seconds = ", ".join(f"{what} {time:.2e} s" for what, time in measure.seconds.items())
        verdict = "reached" if measure.reached else "missed"
        target = f"target {measure.relation} {measure.target:g}, {verdict}"
        print(f"{measure.what}: {measure.ratio:.3g} ({target}; {seconds})", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
