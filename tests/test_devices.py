"""A process uses the device, the threads and the compilation cache that it is told to use."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from mnist_tune import devices


def in_new_process(code: str, **env: str) -> Any:
    """What a new Python process prints as JSON."""
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return json.loads(process.stdout)


def test_versions_are_those_of_python_and_of_what_a_result_depends_on() -> None:
    # A copy: it's made once for the process.
    versions = dict(devices.versions())
    assert versions.pop("python") == platform.python_version()
    assert set(versions) >= {"mnist-tune", "jax", "jaxlib", "flax", "optax", "ray", "numpy"}
    assert versions == {name: version(name) for name in versions}


def test_the_current_device_is_this_cpu() -> None:
    device = devices.current()
    assert device.platform == "cpu"
    assert device.kind
    assert device.threads >= 1
    assert device.record() == {"platform": "cpu", "kind": device.kind, "threads": device.threads}


def test_the_cpu_count_is_that_of_the_cores_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    assert devices.cpu_count() == len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert devices.cpu_count() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_the_compilation_cache_is_in_the_user_s_cache_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert devices.compilation_cache_dir() == tmp_path / "elsewhere" / "mnist-tune" / "jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert devices.compilation_cache_dir() == tmp_path / ".cache" / "mnist-tune" / "jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert devices.compilation_cache_dir() == tmp_path / ".cache" / "mnist-tune" / "jax"


THREADS = """
import json, pathlib
from mnist_tune import devices
devices.configure({arguments})
import jax
jax.numpy.ones((64, 64)).block_until_ready()
names = [name.read_text().strip() for name in pathlib.Path("/proc/self/task").glob("*/comm")]
print(json.dumps([*devices.current(), names.count("tf_XLAEigen")]))
"""


@pytest.mark.parametrize(("arguments", "threads"), [("'cpu', 1", 1), ("'cpu', threads=3", 3)])
def test_xla_uses_the_threads_that_were_asked_for(arguments: str, threads: int) -> None:
    name, _, recorded, running = in_new_process(THREADS.format(arguments=arguments), NPROC="7")
    assert (name, recorded, running) == ("cpu", threads, threads)


def test_without_a_number_xla_uses_a_thread_a_core() -> None:
    _, _, recorded, running = in_new_process(THREADS.format(arguments=""), NPROC="")
    assert recorded == running == devices.cpu_count()


def test_configure_cpu_keeps_jax_off_other_platforms() -> None:
    code = """
import fcntl
import json
from mnist_tune import devices
devices.configure("cpu")
import jax
print(json.dumps(sorted({device.platform for device in jax.devices()})))
"""
    assert in_new_process(code, JAX_PLATFORMS="cuda") == ["cpu"]


def test_nothing_is_started_before_it_is_used() -> None:
    code = """
import json, pathlib, sys
from mnist_tune import devices
before = "jax" in sys.modules
devices.configure("cpu", 3)
from mnist_tune import training
names = [name.read_text().strip() for name in pathlib.Path("/proc/self/task").glob("*/comm")]
print(json.dumps([before, names.count("tf_XLAEigen")]))
"""
    assert in_new_process(code) == [False, 0]


TRAINING = """
import fcntl
import json
from collections import Counter
from mnist_tune import devices
devices.configure("cpu", 1)
import jax, numpy as np
seen = Counter()
jax.monitoring.register_event_listener(lambda event, **_: seen.update([event]))
from mnist_tune import training
from mnist_tune.datasets import Split
from mnist_tune.hparams import complete

config = complete({"features": [2, 3], "dense_units": 8, "batch_size": 16, "seed": SEED})
part = Split(np.zeros((40, 28, 28, 1), np.uint8), np.zeros(40, np.int32))
data, state = training.device_data(part), training.initial_state(config)
state = training.train_epoch(state, data, training.hypers(config, 2), np.int32(1), 16)
loss = training.evaluate(state.params, data).loss
(loss + 1).block_until_ready()  # a program that takes no time to compile
names = ("compile_requests_use_cache", "cache_hits")
print(json.dumps([seen["/jax/compilation_cache/" + name] for name in names]))
"""


@pytest.mark.slow
def test_a_second_process_compiles_nothing_anew(tmp_path: Path) -> None:
    first = in_new_process(TRAINING.replace("SEED", "0"), XDG_CACHE_HOME=str(tmp_path))
    second = in_new_process(TRAINING.replace("SEED", "1"), XDG_CACHE_HOME=str(tmp_path))
    programs = first[0]
    assert programs >= 3
    assert first == [programs, 0]
    assert second == [programs, programs]


def test_one_process_compiles_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    lock = devices.compilation_cache_dir() / "lock"
    with devices.compiling_alone(), lock.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with lock.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_without_a_place_for_a_lock_compiling_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with devices.compiling_alone():
        assert not devices.compilation_cache_dir().exists()
