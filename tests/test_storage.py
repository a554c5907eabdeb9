"""Against a real server, on this machine."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable

import pytest
from object_store import free_port, objects

from mnist_tune import storage
from mnist_tune.errors import MnistTuneError, StorageError
from mnist_tune.places import join


@pytest.fixture
def uri(bucket: str) -> str:
    return f"s3://{bucket}/runs"


def test_what_is_written_is_read(uri: str) -> None:
    place = join(uri, "a", "file")
    assert not storage.exists(place)
    assert storage.read_bytes(place) is None
    for content in (b"first", b"", bytes(12_000_000)):
        storage.write_bytes(place, content)
        assert storage.exists(place)
        assert storage.read_bytes(place) == content
    storage.delete(place)
    storage.delete(place)
    assert not storage.exists(place)


def test_a_server_named_in_the_uri(
    uri: str, s3_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    place = f"{uri}/file?endpoint_override={s3_address}&scheme=http"
    storage.write_bytes(place, b"1")
    assert storage.read_bytes(place) == b"1"


def test_what_is_too_large_is_not_read(uri: str) -> None:
    storage.write_bytes(join(uri, "file"), bytes(11))
    assert storage.read_bytes(join(uri, "file"), 11) == bytes(11)
    with pytest.raises(StorageError, match=r"runs/file: over 10 bytes; not what mnist-tune wrote"):
        storage.read_bytes(join(uri, "file"), 10)


def test_listing(uri: str) -> None:
    assert storage.files(uri) == storage.directories(uri) == []
    names = ["b", "a", "d/e/f", "c/x"]
    for name in names:
        storage.write_bytes(join(uri, *name.split("/")), name.encode())
    assert storage.files(uri) == ["a", "b"]
    assert storage.directories(uri) == ["c", "d"]
    uris = [join(uri, *name.split("/")) for name in ("b", "c", "a", "c/x", "none")]
    assert storage.read_all(uris) == [b"b", None, b"a", b"c/x", None]
    times = storage.modified_s(uris)
    assert [time_s is None for time_s in times] == [False, True, False, False, True]
    assert times[0] == pytest.approx(time.time(), abs=60)
    assert storage.modified_s([]) == []


def test_a_tree_is_removed_in_the_background(uri: str, bucket: str, s3_address: str) -> None:
    for name in ("a/1", "a/b/2", "c/3"):
        storage.write_bytes(join(uri, *name.split("/")), b"")
    storage.delete_tree(join(uri, "a")).result()
    storage.delete_tree(join(uri, "nothing")).result()
    assert list(objects(s3_address, bucket)) == ["runs/c/3"]


def test_a_probe_leaves_nothing(uri: str, bucket: str, s3_address: str) -> None:
    storage.probe(uri)
    storage.probe(f"s3://{bucket}")
    assert objects(s3_address, bucket) == {}


ACCESSES: list[Callable[[str], object]] = [
    storage.exists,
    storage.check_bucket,
    storage.probe,
    lambda uri: storage.write_bytes(join(uri, "file"), b""),
]


@pytest.mark.parametrize("access", ACCESSES)
def test_a_bucket_that_is_not_there(access: Callable[[str], object], bucket: str) -> None:
    with pytest.raises(StorageError, match=r"^s3://nobodys-bucket/a.*: there is no such bucket"):
        access("s3://nobodys-bucket/a")


@pytest.mark.parametrize("access", ACCESSES[:3])
@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_no_server_is_said_soon(
    access: Callable[[str], object], scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    # Google's: no credentials, and so no look for them in the network.
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere")
    start = time.monotonic()
    place = f"{scheme}://bucket/a?endpoint_override=127.0.0.1:{free_port()}&scheme=http"
    with pytest.raises(StorageError, match=r"^\w\w://bucket/a.*cannot be (looked for|reached)"):
        access(place)
    assert time.monotonic() - start < 30


def check_credentials_after(address: str, requests: bytes) -> None:
    """Has the server look at credentials; nobody is anybody whom it knows."""
    headers = {"Content-Type": "text/plain"}
    url = f"http://{address}/moto-api/reset-auth"
    request = urllib.request.Request(url, data=requests, headers=headers)
    urllib.request.urlopen(request, timeout=10).close()


def test_denied(bucket: str, s3_address: str) -> None:
    check_credentials_after(s3_address, b"0")
    try:
        with pytest.raises(MnistTuneError, match="access is denied; check the credentials"):
            storage.exists(f"s3://{bucket}/a")
        with pytest.raises(MnistTuneError, match="access is denied; check the credentials"):
            storage.write_bytes(f"s3://{bucket}/a", b"")
    finally:
        check_credentials_after(s3_address, b"inf")
