"""What every test shares: JAX as strict as it goes, the command line, the real MNIST files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
IDX_DIR = Path(os.environ.get("MNIST_IDX_DIR", ROOT.parent / "shared" / "mnist"))

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli() -> Cli:
    """Runs ``mnist-tune`` as a user does, in a process of its own."""

    def run(
        *args: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, timeout_s: float = 300
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mnist_tune", *map(str, args)],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def idx_dir() -> Path:
    """The four original MNIST files."""
    if not (IDX_DIR / "train-images-idx3-ubyte.gz").exists():
        pytest.skip(f"the MNIST files are not in {IDX_DIR} (set MNIST_IDX_DIR)")
    return IDX_DIR
