"""How fast the program starts, and what it must not import to do so."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

HEAVY = {"jax", "flax", "optax", "ray", "tensorflow", "tensorflow_datasets", "sklearn", "numpy"}


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    code = "import sys, mnist_tune.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "limit_s"),
    [(["--help"], 0.3), (["space", "check", "search_spaces/lr_beta.yaml"], 0.6)],
)
def test_start_up_time(arguments: list[str], limit_s: float, pytestconfig) -> None:
    times_s = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "mnist_tune", *arguments],
            cwd=pytestconfig.rootpath,
            capture_output=True,
            check=True,
        )
        times_s.append(time.perf_counter() - start)
    assert min(times_s) <= limit_s
