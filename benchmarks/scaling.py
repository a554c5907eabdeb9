"""How many trials one driver takes at a time, on a Ray cluster of three nodes and a head."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from benchmarks.paced import PACES_S
from benchmarks.processes import ContestantError, module, run, temporary_directory
from benchmarks.report import Table, seconds
from benchmarks.rounds import talk
from benchmarks.settings import Settings
from benchmarks.usage import AGENTS, GCS, OTHERS, RAYLETS, TRIALS

NODES = 3
_CONCURRENT, _CONCURRENT_QUICK = (12, 48, 96), (3,)
_WINDOW_S, _WINDOW_QUICK_S = 20.0, 2.0


def measure(settings: Settings) -> dict[str, Any]:
    """Runs a search for each number of trials at a time, as far as this machine can hold them."""
    counts = _CONCURRENT_QUICK if settings.quick else _CONCURRENT
    window_s = _WINDOW_QUICK_S if settings.quick else _WINDOW_S
    points = []
    for count in counts:
        try:
            points.append(_measure(count, window_s, settings.data_dir))
        except ContestantError as error:
            if not points:
                raise
            talk(f"{count} trials at a time are too many here: {error}")
            break
    return {"points": points}


def _measure(concurrent: int, window_s: float, data_dir: str) -> dict[str, Any]:
    from tests.ray_clusters import head, node

    talk(f"{concurrent} trials at a time")
    with ExitStack() as stack:
        ray_directory = stack.enter_context(temporary_directory())
        directory = stack.enter_context(temporary_directory())
        address = stack.enter_context(head(ray_directory, cpus=0))
        for _ in range(NODES):
            stack.enter_context(node(address, ray_directory, concurrent // NODES))
        storage = directory / "runs"
        storage.mkdir()
        arguments = [address, str(ray_directory), str(storage), data_dir]
        command = module("paced", *arguments, str(concurrent), str(window_s))
        return run(command, directory).answer()


def table(result: dict[str, Any]) -> Table:
    """A row a number of trials and a pace."""
    columns = (
        *("trials at a time", "an epoch takes (s)", "reports/s", "wait for the driver, median (s)"),
        *("99 % (s)", "driver (cores)", "driver (CPU ms a report)", "GCS and raylets (cores)"),
        *("trials (cores)", "driver (MiB)", "a trial's process (MiB)", "Ray's own (MiB)"),
        "all started after (s)",
    )
    rows = [
        _row(point, name, pace_s) for point in result["points"] for name, pace_s in PACES_S.items()
    ]
    return Table(columns, rows)


def _row(point: dict[str, Any], name: str, pace_s: float) -> list[str]:
    paced, processes = point[name], point["processes"]
    cores, reports_per_s = paced["cores"], paced["reports"] / paced["wall_s"]
    trials = processes[TRIALS]
    own = sum(processes[kind]["pss_bytes"] for kind in (GCS, RAYLETS, AGENTS, OTHERS))
    return [
        str(point["concurrent"]),
        f"{pace_s:g}",
        f"{reports_per_s:.1f}",
        seconds(paced["wait_s"]["50"]),
        seconds(paced["wait_s"]["99"]),
        f"{cores['driver']:.2f}",
        f"{1000 * cores['driver'] / reports_per_s:.1f}",
        f"{cores[GCS] + cores[RAYLETS]:.2f}",
        f"{cores[TRIALS]:.2f}",
        f"{point['driver_bytes']['full'] / 2**20:.0f}",
        f"{trials['pss_bytes'] / trials['count'] / 2**20:.0f}",
        f"{own / 2**20:.0f}",
        f"{point['start_s']:.0f}",
    ]
