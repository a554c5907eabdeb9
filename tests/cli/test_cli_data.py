"""`mnist-tune data` as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mnist_tune.datasets import load_dataset

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

NO_NETWORK = {
    **dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"
    ),
    "no_proxy": "",
    "NO_PROXY": "",
}


def start(*args: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mnist_tune", "data", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def names_in(data_dir: Path) -> list[str]:
    return sorted(path.name for path in (data_dir / "mnist-tune").iterdir())


@pytest.mark.slow
def test_import_mnist(cli: Cli, idx_dir: Path, mnist_data_dir: Path, tmp_path: Path) -> None:
    # What TFDS leaves in its own download directory after an import of another data set.
    other = tmp_path / "downloads" / "extracted" / "GZIP.train-images-idx3-ubyte.gz"
    other.parent.mkdir(parents=True)
    other.write_bytes(bytes(16 + 60_000 * 784))

    done = cli("data", "import", idx_dir, "--data-dir", tmp_path)
    checksum = load_dataset("mnist", mnist_data_dir).checksum
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"preparing mnist (once) in {tmp_path}…\n"
    assert done.stdout == (
        "mnist: ready, 60000 training and 10000 test images, 55.2 MB in "
        f"{tmp_path}/mnist-tune/mnist, checksum {checksum}\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["downloads", "mnist", "mnist-tune"]
    assert names_in(tmp_path) == ["mnist"]


@pytest.mark.slow
def test_prepare_and_info(cli: Cli, tmp_path: Path) -> None:
    env = {"TFDS_DATA_DIR": str(tmp_path)}
    done = cli("data", "prepare", "--dataset", "digits", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"preparing digits (once) in {tmp_path}…\n"
    assert done.stdout.startswith("digits: ready, 1437 training and 360 test images, 1.4 MB in ")

    again = cli("data", "prepare", "--dataset", "digits", env=env)
    assert (again.stdout, again.stderr) == (done.stdout, "")

    info = cli("data", "info", env=env)
    assert (info.returncode, info.stderr) == (0, "")
    assert info.stdout.splitlines() == [
        *(
            f"{name}: absent, to be prepared in {tmp_path}/mnist-tune/{name}"
            for name in ("mnist", "fashion_mnist", "kmnist")
        ),
        done.stdout.rstrip(),
    ]


def test_info_json(cli: Cli, digits_data_dir: Path) -> None:
    done = cli("data", "info", "--dataset", "digits", "--json", "--data-dir", digits_data_dir)
    assert (done.returncode, done.stderr) == (0, "")
    place = digits_data_dir / "mnist-tune" / "digits"
    assert json.loads(done.stdout) == {
        "datasets": [
            {
                "name": "digits",
                "state": "ready",
                "path": str(place),
                "train_images": 1437,
                "test_images": 360,
                "size_bytes": sum(file.stat().st_size for file in place.iterdir()),
                "checksum": load_dataset("digits", digits_data_dir).checksum,
                "problem": None,
            }
        ]
    }


def test_info_on_damage(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mnist-tune" / "kmnist").mkdir(parents=True)
    done = cli("data", "info", "--dataset", "kmnist", "--data-dir", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        f"kmnist: damaged, {tmp_path}/mnist-tune/kmnist/manifest.json: No"
    )
    assert f"run `mnist-tune data prepare --dataset kmnist --data-dir {tmp_path}`" in done.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["prepare", "--dataset", "minst"],
            "--dataset: unknown data set 'minst'; did you mean 'mnist'?",
        ),
        (
            ["info", "--dataset", "xyz"],
            "--dataset: unknown data set 'xyz'; known: mnist, fashion_mnist, kmnist, digits",
        ),
        (["import", "."], "train-labels-idx1-ubyte.gz: missing"),
        (["import", "nowhere"], "nowhere: must be the directory that holds the four IDX files"),
        (["import", ".", "--dataset", "digits"], "digits needs no import"),
        (["prepare", "--data-dir", "file"], "file: must be a directory; it is a file; choose"),
        (["prepare", "--data-dir", "file/below"], "file/below: Not a directory; choose another"),
        (["info", "--data-dir", "s3://bucket"], "must be on this machine; it is a URL"),
    ],
)
def test_wrong_input(cli: Cli, args: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = cli("data", *args, cwd=tmp_path, env={"TFDS_DATA_DIR": str(tmp_path / "data")})
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_no_network(cli: Cli, tmp_path: Path) -> None:
    done = cli("data", "prepare", "--data-dir", tmp_path / "data", env=NO_NETWORK)
    assert (done.returncode, done.stdout) == (1, "")
    preparing, error = done.stderr.splitlines()
    assert preparing == f"preparing mnist (once) in {tmp_path}/data…"
    assert error.startswith(f"Error: mnist is not in {tmp_path}/data and cannot be downloaded")
    assert f"`mnist-tune data import DIR --dataset mnist --data-dir {tmp_path}/data`" in error
    assert "`--dataset digits`" in error
    assert not list(tmp_path.iterdir())


def test_verbose_shows_what_the_libraries_say(cli: Cli, tmp_path: Path) -> None:
    done = cli("data", "prepare", "--verbose", "--data-dir", tmp_path, env=NO_NETWORK)
    assert done.returncode == 1
    assert "requests.exceptions.ProxyError" in done.stderr


@pytest.mark.slow
def test_two_processes_at_once(tmp_path: Path) -> None:
    processes = [start("prepare", "--dataset", "digits", "--data-dir", tmp_path) for _ in range(2)]
    (first, first_talk), (second, second_talk) = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], first_talk + second_talk
    assert first == second
    assert names_in(tmp_path) == ["digits"]


def test_interrupted(tmp_path: Path) -> None:
    for attempt in range(10):
        place = tmp_path / str(attempt)
        place.mkdir()
        process = start("prepare", "--dataset", "digits", "--data-dir", place / "data")
        deadline_s = time.monotonic() + 30
        while not list(place.glob("data/mnist-tune/.digits-*")):
            assert time.monotonic() < deadline_s
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
        if process.returncode:
            break
    # A fast machine can be through before the signal is there.
    assert (process.returncode, stdout) == (130, "")
    assert stderr.splitlines()[1:] == ["Error: interrupted"]
    assert not list(place.iterdir())


def test_no_space_left(tmp_path: Path) -> None:
    # A limit on the size of a file stands in for a full disk: the same failure of the same call.
    limited = ["sh", "-c", 'ulimit -f 100; exec "$@"', "sh", sys.executable, "-m", "mnist_tune"]
    command = [*limited, "data", "prepare", "--dataset", "digits", "--data-dir", tmp_path / "data"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    message = f"Error: digits cannot be prepared in {tmp_path}/data: File too large"
    assert done.stderr.splitlines()[1:] == [message]
    assert not list(tmp_path.iterdir())
