"""How many trials and reports a driver takes, against bare Ray Tune."""

from __future__ import annotations

from typing import Any

from benchmarks.processes import module, run, temporary_directory
from benchmarks.report import Table
from benchmarks.rounds import interleave, median
from benchmarks.settings import Settings

OURS = "mnist-tune"
_RAY = "Ray Tune"


def measure(settings: Settings, trials: int | None = None) -> dict[str, Any]:
    """Drives simulated trials through both.

    Args:
        settings: how to measure.
        trials: how many; None: 2,000, or 100 if it's to be quick.
    """
    count = trials or (100 if settings.quick else 2_000)

    def simulate(name: str) -> dict[str, Any]:
        with temporary_directory() as directory:
            command = module("simulated", name, str(count), str(directory), settings.data_dir)
            return run(command, directory, {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}).answer()

    contestants = {OURS: lambda: simulate("mnist-tune"), _RAY: lambda: simulate("ray")}
    return {"trials": count, "contestants": interleave(contestants, settings.rounds)}


def table(result: dict[str, Any]) -> Table:
    """A row a driver."""

    def rate(name: str, field: str) -> float:
        return median([run[field] / run["wall_s"] for run in result["contestants"][name]])

    rows = []
    for name, runs in result["contestants"].items():
        growth = median([run["bytes_per_trial"] for run in runs])
        resident = median([run["resident_bytes"] for run in runs])
        rows.append(
            [
                name,
                f"{rate(name, 'trials'):.1f}",
                f"{rate(name, 'reports'):.1f}",
                f"{rate(OURS, 'reports') / rate(name, 'reports'):.2f}",
                f"{growth / 1024:.0f}",
                f"{resident / 2**20:.0f}",
            ]
        )
    columns = (
        *(
            f"driver, {result['trials']} trials",
            "trials/s",
            "reports/s",
            "ours / theirs (reports/s)",
        ),
        *("memory growth per trial (KiB)", "memory at the end (MiB)"),
    )
    return Table(columns, rows)
