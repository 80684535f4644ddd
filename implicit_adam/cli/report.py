"""Writes the report of `implicit-adam reproduce`; every number in it comes from the run that writes it."""

import dataclasses
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from implicit_adam.files import installed
from implicit_adam.paper.claims import Claim, Experiment, Table
from implicit_adam.paper.reproduce import BY_NAME_ONLY
from implicit_adam.sweeps.maker import cores

PACKAGES = (
    "implicit-adam",
    "jax",
    "jaxlib",
    "numpy",
    "optax",
    "diffrax",
    "scikit-learn",
    "scipy",
    "matplotlib",
)

# Claims of the paper that no experiment measures, and why.
UNMEASURED = (
    "That the bias may explain sharper minima and poorer generalization of adaptive methods (section 2): the "
    "paper itself calls the link speculative. The accuracies of Figures 4 and 5 are all that bears on it."
)
PAPER = (
    "M. D. Cattaneo, J. M. Klusowski, B. Shigida, "
    "[On the Implicit Bias of Adam](https://arxiv.org/abs/2309.00079), ICML 2024"
)
QUICK = "**Small settings (`--quick`): everything runs, and no more. Verdicts on networks mean nothing.**"


class Done(NamedTuple):
    """A finished experiment: its claims with verdicts, running time, picture format and tables."""

    experiment: Experiment
    config: Any
    claims: tuple[Claim, ...]
    seconds: float
    picture: str = "png"
    tables: tuple[Table, ...] = ()


def report(
    done: Mapping[str, Done], command: str, *, quick: bool = False, missing: Sequence[str] = ()
) -> str:
    """The report in Markdown: a table of all claims, then a section for each experiment.

    `missing` are the experiments that have not run yet.
    """
    of_paper = not set(BY_NAME_ONLY).issuperset(done)
    verdicts = [claim.verdict for one in done.values() for claim in one.claims]
    seconds = sum(one.seconds for one in done.values())
    lines = [
        "# The paper, re-checked" if of_paper else "# Beyond the paper, checked",
        "",
        f"{PAPER}.",
        "",
        made_by(command, seconds),
        "",
        *([QUICK, ""] if quick else []),
        *([f"**Not finished: without {', '.join(missing)}.**", ""] if missing else []),
        "Each verdict is computed from the stated criterion: *held*, *did not hold*, or *not decided here*, "
        "where the data do not say; it is about what the claim was measured on. All settings are listed with "
        "their experiment. The command also writes all arrays (npz).",
        "",
        counted(verdicts),
        "",
        "| source | claim | measured on | verdict | experiment |",
        "|---|---|---|---|---|",
    ]
    for name, one in done.items():
        lines += rows(name, one)
    lines += ["", f"Not measured here: {UNMEASURED}"] if of_paper else []
    for name, one in done.items():
        lines += ["", *section(name, one)]
    return "\n".join(lines) + "\n"


def written_by(command: str) -> str:
    """The words by which a report is recognised as written by this command."""
    return f"Written by `{command}`"


def made_by(command: str, seconds: float) -> str:
    """A sentence with the command, its running time, the machine and the versions."""
    return f"{written_by(command)} in {_minutes(seconds)} on {_machine()}; with {_versions()}."


def counted(verdicts: Sequence[str]) -> str:
    """A sentence with the number of claims for each verdict."""
    counts = ", ".join(f"{verdicts.count(word)} {word}" for word in dict.fromkeys(verdicts))
    return f"{len(verdicts)} claims: {counts}."


def rows(name: str, one: Done) -> list[str]:
    """The rows of one experiment in the table of claims."""
    return [
        f"| {claim.source} | {_cell(claim.statement)} | {one.experiment.subject} | **{claim.verdict}** | "
        f"[{name}](#{name}) |"
        for claim in one.claims
    ]


def section(name: str, one: Done) -> Iterator[str]:
    """The section of an experiment: an anchor, its picture, criteria, measurements and settings."""
    # An explicit anchor, since the anchors of headings depend on the renderer.
    yield f'<a id="{name}"></a>'
    yield ""
    yield f"## {one.experiment.title}"
    yield ""
    # A pdf cannot be shown in a page, so it is linked.
    yield f"{'' if one.picture == 'pdf' else '!'}[{one.experiment.title}]({name}.{one.picture})"
    yield ""
    criterion = ""
    for claim in one.claims:
        yield f"* {claim.source}: {claim.statement} **{claim.verdict[0].upper()}{claim.verdict[1:]}.**"
        yield f"  * Measured: {claim.measured}."
        yield f"  * Criterion: {'as before' if claim.criterion == criterion else claim.criterion}."
        criterion = claim.criterion
    for table in one.tables:
        yield ""
        yield from _listed(table)
    if one.experiment.caveat:
        yield ""
        yield one.experiment.caveat
    yield ""
    settings = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in _settings(one.config))
    yield f"Settings: {settings}. Arrays: `{name}.npz`. Took {one.seconds:.0f} s."


def _listed(table: Table) -> Iterator[str]:
    yield table.title
    yield ""
    for row in (table.head, ("---",) * len(table.head), *table.rows):
        yield f"| {' | '.join(_cell(cell) for cell in row)} |"


def _settings(config: Any) -> Iterator[tuple[str, str]]:
    """The fields of a config by name; one that differs between nested configs gets the config's name, too."""
    fields: dict[str, list[tuple[str, str]]] = {}
    for place, name, value in _leaves(config):
        fields.setdefault(name, []).append((place, _shown(value)))
    for name, places in fields.items():
        if len({value for _, value in places}) == 1:
            yield name, places[0][1]
        else:
            yield from ((f"{place} {name}", value) for place, value in places)


def _leaves(config: Any, place: str = "") -> Iterator[tuple[str, str, Any]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, field.name.replace("_", " "))
        else:
            yield place, field.name, value


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if value is None:
        return "default"
    if value in ((), {}):
        return "none"
    if isinstance(value, tuple) and len(value) > 12:
        return f"{_shown(value[0])} .. {_shown(value[-1])} ({len(value)} values)"
    if isinstance(value, tuple):
        nested = (f"({_shown(part)})" if isinstance(part, tuple) else _shown(part) for part in value)
        return ", ".join(nested)
    return str(value)


def _cell(text: str) -> str:
    """Escape the bars in a table cell, which would end it."""
    return text.replace("|", r"\|")


def _machine() -> str:
    device = jax.devices()[0]
    kind = "" if device.platform == "cpu" else f" and {device.device_kind}"
    return f"{cores()} {platform.machine()} cores{kind}"


def _versions() -> str:
    found = installed(PACKAGES).items()
    return ", ".join([f"Python {platform.python_version()}", *(" ".join(one) for one in found)])


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
