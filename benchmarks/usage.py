"""What the processes of a Ray cluster on this machine use: CPU time and memory."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

TRIALS, IDLE, GCS, RAYLETS, AGENTS, OTHERS = (
    *("trials", "idle workers", "GCS", "raylets", "agents"),
    "others",
)


class Usage(NamedTuple):
    """Of all processes of a kind: how many, their CPU time, their share of the memory (PSS)."""

    processes: int
    cpu_s: float
    pss_bytes: int


def usage(directory: Path, *, memory: bool) -> dict[str, Usage]:
    """What each kind of process uses now.

    Args:
        directory: Ray's files; its processes are recognised by it.
        memory: measure it, which takes milliseconds a process; else it's 0.
    """
    kinds = kinds_of(dict(_command_lines()), directory)
    found: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for pid, kind in kinds.items():
        with suppress(OSError):
            found[kind].append((_cpu_s(pid), _pss_bytes(pid) if memory else 0))
    return {
        kind: Usage(len(each), sum(cpu for cpu, _ in each), sum(pss for _, pss in each))
        for kind, each in found.items()
    }


def kinds_of(processes: Mapping[int, tuple[int, str]], directory: Path) -> dict[int, str]:
    """Process → its kind, of those that belong to a cluster.

    Args:
        processes: all there are: process → its parent and its command line.
        directory: Ray's files.
    """
    kinds = {}
    for pid, (_, line) in processes.items():
        if str(directory) in line:
            program = line.split()[0].rpartition("/")[2]
            kinds[pid] = {"gcs_server": GCS, "raylet": RAYLETS}.get(program, OTHERS)
    raylets = {pid for pid, kind in kinds.items() if kind == RAYLETS}
    for pid, (parent, line) in processes.items():
        # Workers and agents have put a title in the place of their arguments.
        if parent in raylets and line.startswith("ray::"):
            title = line.removeprefix("ray::")
            agent = title.split(" ")[0].endswith("Agent")
            kinds[pid] = AGENTS if agent else IDLE if title.startswith("IDLE") else TRIALS
    return kinds


def available_bytes() -> int:
    """The memory that programs can still have."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


def resident_bytes() -> int:
    """This process's memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _command_lines() -> Iterator[tuple[int, tuple[int, str]]]:
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if line.strip():
                yield int(entry.name), (int(_stat(int(entry.name))[1]), line)


def _stat(pid: int) -> list[str]:
    """The fields after the program's name, which can hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _cpu_s(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _pss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
