"""What every test shares: JAX as strict as it goes, the command line, the real MNIST files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from processes import temporary_directory

# Before JAX is imported here or in a process that a test starts.
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
# A GPU only where it's asked for, as benchmarks/gpu_check.sh does.
os.environ["JAX_PLATFORMS"] = os.environ.get("MNIST_TUNE_TEST_PLATFORM", "cpu")

ROOT = Path(__file__).resolve().parent.parent
IDX_DIR = Path(os.environ.get("MNIST_IDX_DIR", ROOT.parent / "shared" / "mnist"))

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli() -> Cli:
    """Runs ``mnist-tune`` as a user does, in a process of its own."""

    def run(
        *args: str | Path,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        timeout_s: float = 300,
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


@pytest.fixture(scope="session")
def mnist_data_dir(idx_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with MNIST in it, imported from the original files (half a minute)."""
    from mnist_tune.datasets import import_dataset

    data_dir = tmp_path_factory.mktemp("mnist")
    import_dataset("mnist", idx_dir, data_dir)
    return data_dir


@pytest.fixture(scope="session")
def digits_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the bundled digits in it."""
    from mnist_tune.datasets import load_dataset

    data_dir = tmp_path_factory.mktemp("digits")
    load_dataset("digits", data_dir)
    return data_dir


@pytest.fixture(scope="session")
def s3_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of an S3 server that has nothing in it but what tests put there."""
    from object_store import s3_server

    with s3_server(tmp_path_factory.mktemp("s3") / "log") as address:
        yield address


@pytest.fixture
def bucket(
    s3_address: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A new bucket; whatever is asked for by s3://BUCKET finds it."""
    from object_store import make_bucket

    name = f"bucket-{uuid4().hex}"
    make_bucket(s3_address, name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3_address}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    # One for all tests, so that programs are compiled once.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    return name


@pytest.fixture
def lr_beta() -> Path:
    """The search space that comes with the project."""
    return ROOT / "search_spaces" / "lr_beta.yaml"


@pytest.fixture(scope="module")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray on this machine as a search has it, for a file's tests."""
    # Made now: else it would be made in the directory below, and end with it.
    tmp_path_factory.getbasetemp()
    with temporary_directory() as temporary, pytest.MonkeyPatch.context() as patched:
        patched.setattr("tempfile.tempdir", str(temporary))
        from mnist_tune.cluster import ray_session

        with ray_session(None, verbose=False) as connect:
            connect()
            yield
