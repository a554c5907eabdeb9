"""The process that prepares a data set: the bundled digits, downloads, what TFDS checks itself."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from mnist_tune.data_dir import read_arrays
from mnist_tune.data_sources import DATASETS
from mnist_tune.datasets import load_dataset
from mnist_tune.errors import DataUnavailableError

Respond = Callable[[str], tuple[int, bytes]]


@contextmanager
def http_proxy(respond: Respond) -> Iterator[str]:
    """A proxy that answers a GET for a URL by itself, and nothing else; gives its own URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content = respond(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(BrokenPipeError, ConnectionResetError):  # it may have read enough
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def use_proxy(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def use(url: str) -> None:
        for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(variable, url)
        for variable in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(variable, raising=False)

    return use


def run_prepare(patch: str, request: dict[str, object]) -> subprocess.CompletedProcess[str]:
    """Runs the process as ``datasets`` does, after some lines that change it."""
    program = f"from mnist_tune import prepare\n{patch}\nprepare.main()"
    return subprocess.run(
        [sys.executable, "-c", program, json.dumps(request)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_digits(digits_data_dir: Path) -> None:
    from sklearn.datasets import load_digits

    dataset = load_dataset("digits", digits_data_dir)
    images = np.concatenate([dataset.train.images, dataset.test.images])
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    assert images.shape == (1797, 28, 28, 1)
    assert not images[:, [0, 1, 26, 27]].any()
    assert not images[:, :, [0, 1, 26, 27]].any()
    blocks = images[:, 2:26, 2:26, 0].reshape(-1, 8, 3, 8, 3)
    assert (blocks == blocks[:, :, :1, :, :1]).all()

    bundled = load_digits()
    small = np.rint(blocks[:, :, 0, :, 0] / (255 / 16))
    rows = np.column_stack([small.reshape(-1, 64), labels])
    original = np.column_stack([bundled.images.reshape(-1, 64), bundled.target])
    assert sorted(map(tuple, rows)) == sorted(map(tuple, original))
    assert images.max() == 255

    for part in (dataset.train, dataset.test):
        share = np.bincount(part.labels, minlength=10) / len(part)
        assert share.min() > 0.07
        assert share.max() < 0.13


def test_digits_are_the_same_everywhere(digits_data_dir: Path) -> None:
    checksum = "35050767e1255b73bee09e04b018877fdcaa430097ff9fda6433bc0f8c70a442"
    assert load_dataset("digits", digits_data_dir).checksum == checksum


@pytest.mark.parametrize("name", ["mnist", "kmnist"])
def test_no_network(
    name: str,
    tmp_path: Path,
    use_proxy: Callable[[str], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    use_proxy("http://127.0.0.1:9")
    start_s = time.monotonic()
    with pytest.raises(DataUnavailableError) as caught:
        load_dataset(name, tmp_path / "data")
    assert time.monotonic() - start_s < 30
    message = str(caught.value)
    assert "\n" not in message
    assert f"{name} is not in {tmp_path}/data and cannot be downloaded" in message
    assert "ProxyError" in message
    assert f"`mnist-tune data import DIR --dataset {name}" in message
    assert "`--dataset digits`" in message
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", f"preparing {name} (once) in {tmp_path}/data…\n")


def test_download_not_wanted(tmp_path: Path, use_proxy: Callable[[str], None]) -> None:
    use_proxy("http://127.0.0.1:9")
    with pytest.raises(DataUnavailableError, match=r"mnist is not in .* \(not to be downloaded\)"):
        load_dataset("mnist", tmp_path / "data", download=False)
    assert not list(tmp_path.iterdir())


def test_server_in_trouble(tmp_path: Path, use_proxy: Callable[[str], None]) -> None:
    start_s = time.monotonic()
    with http_proxy(lambda _: (503, b"later")) as proxy:
        use_proxy(proxy)
        with pytest.raises(DataUnavailableError, match=r"codh.rois.ac.jp answers with .* 503"):
            load_dataset("kmnist", tmp_path / "data")
    assert time.monotonic() - start_s < 30
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_wrong_files_from_the_network(tmp_path: Path, use_proxy: Callable[[str], None]) -> None:
    with http_proxy(lambda _: (200, b"<html>Please log in to this network</html>")) as proxy:
        use_proxy(proxy)
        with pytest.raises(DataUnavailableError, match=r"wrong checksum.*`--dataset digits`"):
            load_dataset("kmnist", tmp_path / "data")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_download(
    idx_dir: Path, mnist_data_dir: Path, tmp_path: Path, use_proxy: Callable[[str], None]
) -> None:
    patch = """
import tensorflow_datasets as tfds
builder = tfds.builder_cls("mnist")
insecure = {url.replace("https:", "http:"): info for url, info in builder.url_infos.items()}
builder.URL = builder.URL.replace("https:", "http:")
builder.url_infos = insecure
"""
    (tmp_path / "work").mkdir()
    request = {
        "name": "mnist",
        "root": str(tmp_path),
        "work": str(tmp_path / "work"),
        "idx_dir": None,
        "download": True,
    }
    with http_proxy(lambda url: (200, (idx_dir / url.rpartition("/")[2]).read_bytes())) as proxy:
        use_proxy(proxy)
        process = run_prepare(patch, request)
    assert (process.returncode, process.stdout) == (0, ""), process.stderr
    _, checksum = read_arrays(tmp_path / "work" / "arrays", DATASETS["mnist"].arrays)
    assert checksum == load_dataset("mnist", mnist_data_dir).checksum


@pytest.mark.slow
def test_tfds_refuses_an_altered_file_too(idx_dir: Path, tmp_path: Path) -> None:
    for file in idx_dir.glob("*.gz"):
        (tmp_path / file.name).symlink_to(file)
    altered = tmp_path / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(altered.read_bytes())
    content[100] ^= 1
    altered.unlink()
    altered.write_bytes(content)
    (tmp_path / "work").mkdir()
    request = {
        "name": "mnist",
        "root": str(tmp_path),
        "work": str(tmp_path / "work"),
        "idx_dir": str(tmp_path),
        "download": False,
    }
    process = run_prepare("prepare.check_idx_files = lambda *_: None", request)
    assert process.returncode == 1
    assert json.loads(process.stdout) == {
        "error": "DataFileError",
        "message": f"{tmp_path}: a file changed while it was imported",
    }
    assert not (tmp_path / "work" / "arrays").exists()
