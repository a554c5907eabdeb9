"""The results: a JSON file a day, and tables between markers in README.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

README = Path(__file__).parent / "README.md"
RESULTS = Path(__file__).parent / "results"


class Table(NamedTuple):
    """A table for people: column names, and rows of as many cells."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def markdown(table: Table, note: str) -> str:
    """The table in Markdown, with a line below it."""
    lines = [
        "| " + " | ".join(cells) + " |"
        for cells in (table.columns, ["---"] * len(table.columns), *table.rows)
    ]
    return "\n".join([*lines, "", note])


def note(record: Mapping[str, Any]) -> str:
    """Where a benchmark's figures come from, in a line."""
    machine, versions = record["machine"], record["versions"]
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    devices = ", ".join(filter(None, (machine.get("gpu"), machine["cpu"])))
    return (
        f"{record['date']}, {devices}, {machine['cores_used']} of {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB; `{record['command']}`; {listed}."
    )


def save(records: Mapping[str, Mapping[str, Any]], directory: Path, day: str) -> Path:
    """Adds benchmarks' records to the day's file; those of the same name are replaced.

    Args:
        records: a benchmark's name → ``date``, ``command``, ``machine``, ``versions``, ``result``.
        directory: where the file goes.
        day: its name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{day}.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **records}, indent=1) + "\n")
    return path


def insert(text: str, name: str, content: str) -> str:
    """Replaces what is between a benchmark's markers.

    Raises:
        ValueError: the markers aren't there.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"no {begin} … {end}")
    return f"{head}{begin}\n{content}\n{end}{tail}"


def seconds(value: float) -> str:
    """A time with three digits that count."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def percent(fraction: float) -> str:
    """A fraction as a percentage."""
    return f"{100 * fraction:.2f} %"
