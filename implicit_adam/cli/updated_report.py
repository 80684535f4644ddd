"""Updates a report after some experiments were run again: their parts are replaced, and say so."""

import re
from collections.abc import Mapping, Sequence

from implicit_adam.cli.report import QUICK, Done, counted, made_by, rows, section

ANCHOR = re.compile(r'^<a id="([\w-]+)"></a>$', re.MULTILINE)
ROW = re.compile(r"^\| .* \| \*\*([\w ]+)\*\* \| \[([\w-]+)\]\(#\2\) \|$")
COUNTS = re.compile(r"^\d+ claims: .*$", re.MULTILINE)
NOTE = "Where parts were run again since, they say so."


def can_be_updated(text: str) -> bool:
    """Whether it is a whole report of `implicit-adam reproduce` without --quick and --dataset."""
    made = re.search(r"^Written by `implicit-adam reproduce([^`]*)`", text, re.MULTILINE)
    return bool(made) and "--dataset" not in made[1] and QUICK not in text and bool(COUNTS.search(text))


def updated(text: str, done: Mapping[str, Done], command: str, order: Sequence[str]) -> str:
    """The report with the parts of the experiments in `done` replaced or added, sorted by `order`."""
    head, *parts = ANCHOR.split(text)
    sections = dict(zip(parts[::2], (part.strip("\n") for part in parts[1::2]), strict=True))
    above, table, below = _around_the_table(head)
    by_name: dict[str, list[str]] = {}
    for row in table:
        by_name.setdefault(_match(row)[2], []).append(row)
    for name, one in done.items():
        _, _, *lines = section(name, one)
        again = f"This part was run again. {made_by(command, one.seconds)}"
        sections[name] = "\n".join([*lines, "", again])
        by_name[name] = rows(name, one)
    known = [name for name in order if name in sections] + [name for name in sections if name not in order]
    new = [row for name in known for row in by_name.get(name, [])]
    above = COUNTS.sub(lambda _: counted([_match(row)[1] for row in new]), above)
    if NOTE not in above:
        above = re.sub(r"^(Written by `.*)$", rf"\1 {NOTE}", above, count=1, flags=re.MULTILINE)
    body = [f'<a id="{name}"></a>\n\n{sections[name]}\n' for name in known]
    return "\n".join([above, *new, below.rstrip("\n"), "", *body])


def _around_the_table(head: str) -> tuple[str, list[str], str]:
    """The text above the rows of the table of claims, the rows, and the text below."""
    lines = head.split("\n")
    at = [i for i, line in enumerate(lines) if ROW.match(line)]
    return "\n".join(lines[: at[0]]), lines[at[0] : at[-1] + 1], "\n".join(lines[at[-1] + 1 :])


def _match(row: str) -> re.Match[str]:
    match = ROW.match(row)
    assert match is not None
    return match
