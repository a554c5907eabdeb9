"""What a run of the benchmarks is asked to do, and what is the same for all of its processes."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SPACE = ROOT / "search_spaces" / "lr_beta.yaml"
CORES = 2
"""Each search gets as many, however many there are."""

MEMORY_KEPT = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(2 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}
"""Keeps glibc from giving memory back to the system and faulting it in again at every step, as
the allocators that PyTorch's tuning guide recommends do; makes some epochs a third shorter."""


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        data_dir: where the data sets are, TFDS's directory.
        quick: sizes that show that everything runs; the figures mean nothing.
        rounds: how often each contestant is measured, ≥ 1.
        gpu: the kind of the GPU that lanes are measured on; None: a CPU.
    """

    data_dir: str
    quick: bool
    rounds: int
    gpu: str | None = None


def take_cores(cores: Collection[int]) -> None:
    """Keeps this process, and all it starts, on these cores."""
    os.sched_setaffinity(0, cores)
