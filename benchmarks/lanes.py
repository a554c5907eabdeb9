"""Lanes in one program against a trial alone, and against a process a trial on the same device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.lane_epochs import Form, Work
from benchmarks.processes import ContestantError, module, run, temporary_directory
from benchmarks.report import Table, seconds
from benchmarks.rounds import interleave, median, talk
from benchmarks.settings import CORES, Settings
from mnist_tune.datasets import load_dataset
from mnist_tune.options import MOST_LANES

_TRAINING_FLOP = 1.65e12 / 60_000
"""An image's, forward and backward, as the network is written down: a Winograd convolution, which
a CPU gets, multiplies less often. See ``model`` for the layers."""

_EVALUATION_FLOP = _TRAINING_FLOP / 3
_LONGEST_EPOCH_S = 60.0
_OUT_OF_MEMORY = "out of memory"
_CORE = "a CPU core"
_GPU_PROCESSES = (2, 4, 8)
_CPU_LANES = 8


class Case(NamedTuple):
    """What is measured: so many processes at a time, of so many lanes each."""

    form: Form
    lanes: int
    processes: int = 1

    @property
    def name(self) -> str:
        """As it stands in the results."""
        return f"{self.form}, {self.lanes} × {self.processes}"


Measure = Callable[[Case], dict[str, Any]]


def measure(settings: Settings) -> dict[str, Any]:
    """Measures more and more lanes for as long as they run, then all of them again in rounds."""
    workload = _workload(settings)
    # Made ready once, before any process reads it.
    load_dataset(workload["dataset"], settings.data_dir)
    with temporary_directory() as cache:
        measured = partial(_measured, settings, workload, cache)
        first, stopped = climb(forms(settings), sizes(settings), measured)
        for case in beside(settings, first):
            if result := _attempt(case, measured):
                first[case] = result
            else:
                stopped.append({**case._asdict(), "why": _OUT_OF_MEMORY})
        again = {case.name: partial(_attempt, case, measured) for case in first}
        more = interleave(again, settings.rounds - 1)
    cases = [
        {**case._asdict(), "rounds": [result, *filter(None, more[case.name])]}
        for case, result in first.items()
    ]
    return {
        "workload": workload,
        "device": settings.gpu or _CORE,
        "cases": cases,
        "stopped": stopped,
    }


def forms(settings: Settings) -> Sequence[Form]:
    """The forms of lanes that the device could have."""
    return ("abreast",) if settings.gpu else ("in turn", "abreast")


def sizes(settings: Settings) -> list[int]:
    """Lanes in one program: powers of two."""
    most = 2 if settings.quick else MOST_LANES
    return [1 << i for i in range(most.bit_length())]


def climb(
    forms: Sequence[Form], sizes: Sequence[int], measure: Measure
) -> tuple[dict[Case, dict[str, Any]], list[dict[str, Any]]]:
    """Measures one trial alone, then each form with more and more lanes.

    Args:
        forms: of lanes.
        sizes: numbers of lanes, rising.
        measure: measures a case; raises ``ContestantError``.

    Returns:
        What came out; and where it stopped before the last size, and why: an epoch took too long,
        or the memory wasn't enough.
    """
    done = {Case("alone", 1): measure(Case("alone", 1))}
    stopped = []
    for form in forms:
        why = ""
        for case in (Case(form, lanes) for lanes in sizes):
            result = None if why else _attempt(case, measure)
            if not result:
                stopped.append({**case._asdict(), "why": why or _OUT_OF_MEMORY})
                break
            done[case] = result
            epoch_s = median(result["processes"][0]["epoch_s"])
            if epoch_s > _LONGEST_EPOCH_S:
                why = f"an epoch of {case.lanes} takes {seconds(epoch_s)} s"
    return done, stopped


def _attempt(case: Case, measure: Measure) -> dict[str, Any] | None:
    """What came out; None if the memory wasn't enough."""
    try:
        return measure(case)
    except ContestantError as error:
        if not out_of_memory(str(error)):
            raise
        return None


def beside(settings: Settings, done: Mapping[Case, Any]) -> Iterator[Case]:
    """Several processes at a time: on one GPU, or a core each."""
    if settings.gpu:
        counts = _GPU_PROCESSES[:1] if settings.quick else _GPU_PROCESSES
        yield from (Case("alone", 1, count) for count in counts)
        return
    yield Case("alone", 1, CORES)
    for form in forms(settings):
        yield Case(
            form,
            max(c.lanes for c in done if c.form == form and c.lanes <= _CPU_LANES),
            CORES,
        )


def out_of_memory(said: str) -> bool:
    """Whether a process ended since there wasn't enough memory, of the GPU's or of all."""
    return any(sign in said for sign in ("RESOURCE_EXHAUSTED", "MemoryError", "status -9\n"))


def _workload(settings: Settings) -> dict[str, Any]:
    if settings.quick:
        return {"dataset": "digits", "train_size": 256, "validation_size": 128}
    if settings.gpu:
        return {"dataset": "mnist", "train_size": None, "validation_size": 5_000}
    # 20 steps: with 64 lanes an epoch is still less than a minute or so.
    return {"dataset": "mnist", "train_size": 2_560, "validation_size": 512}


def _measured(
    settings: Settings, workload: dict[str, Any], cache: Path, case: Case
) -> dict[str, Any]:
    talk(f"lanes: {case.name}")
    with temporary_directory() as directory, ThreadPoolExecutor(case.processes) as pool:
        meeting = directory / "meeting"
        meeting.mkdir()
        running = []
        for i in range(case.processes):
            work = Work(
                data_dir=settings.data_dir,
                form=case.form,
                lanes=case.lanes,
                core=None if settings.gpu else sorted(os.sched_getaffinity(0))[i],
                measure_s=0.0 if settings.quick else 3.0,
                meeting=str(meeting),
                processes=case.processes,
                **workload,
            )
            own = directory / f"process-{i}"
            own.mkdir()
            environment = {"XDG_CACHE_HOME": str(cache), **_share_of_memory(settings, case)}
            running.append(
                pool.submit(run, module("lane_epochs", work.argument()), own, environment)
            )
        failed = [str(error) for each in running if (error := each.exception())]
        if failed:
            raise ContestantError("\n".join(failed))
        return {"processes": [each.result().answer() for each in running]}


def _share_of_memory(settings: Settings, case: Case) -> dict[str, str]:
    """Has processes on one GPU take memory as they need it, and none more than its part."""
    if not settings.gpu or case.processes == 1:
        return {}
    return {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / case.processes:.3f}",
    }


def table(result: dict[str, Any]) -> Table:
    """A row a case: medians over the rounds, per device, which is the GPU or a core."""
    on_cpu = result["device"] == _CORE
    cases = result["cases"]
    peaks = [
        process["peak_flop_per_s"]
        for case in cases
        for measured in case["rounds"]
        for process in measured["processes"]
        if process["peak_flop_per_s"]
    ]
    rates = [median([_rate(case, each, on_cpu) for each in case["rounds"]]) for case in cases]
    of_peak = _epoch_flop(cases[0]) / median(peaks)
    rows = [
        [
            *(case["form"], str(case["lanes"]), str(case["processes"])),
            *(seconds(rate), f"{rate / rates[0]:.2f}"),
            f"{_least_bytes(case) / 2**20:.0f}",
            f"{100 * rate * of_peak:.1f} %",
            # Several at a time find their programs in the cache.
            seconds(_first_compile_s(case)) if case["processes"] == 1 else "",
        ]
        for case, rate in zip(cases, rates, strict=True)
    ]
    rows += [
        [*(str(each[name]) for name in Case._fields), f"not measured: {each['why']}", *[""] * 4]
        for each in result["stopped"]
    ]
    device = "a core" if on_cpu else "the GPU"
    columns = (
        *("", "lanes in a process", "processes", f"trial-epochs/s of {device}", "/ one alone"),
        *("memory a lane (MiB)", f"of {median(peaks) / 1e12:.3g} TFLOP/s", "compiling (s)"),
    )
    return Table(columns, rows)


def _rate(case: Mapping[str, Any], measured: Mapping[str, Any], on_cpu: bool) -> float:
    """Trial-epochs a second of one device, by all processes that share it.

    Each counts by its own time, since they don't end at the same moment.
    """
    epochs = [len(p["epoch_s"]) / (p["ended"] - p["begun"]) for p in measured["processes"]]
    return float(sum(epochs) * case["lanes"] / (case["processes"] if on_cpu else 1))


def _epoch_flop(case: Mapping[str, Any]) -> float:
    process = case["rounds"][0]["processes"][0]
    return float(
        process["train_size"] * _TRAINING_FLOP + process["validation_size"] * _EVALUATION_FLOP
    )


def _least_bytes(case: Mapping[str, Any]) -> float:
    """Of all rounds: in the first, a GPU's peak can hold what compiling tried out."""
    return min(
        float(process["bytes_a_lane"])
        for measured in case["rounds"]
        for process in measured["processes"]
    )


def _first_compile_s(case: Mapping[str, Any]) -> float:
    """In the first round: in the others the programs come from the cache."""
    return max(float(process["compile_s"]) for process in case["rounds"][0]["processes"])
