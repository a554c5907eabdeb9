"""Object stores: reading, writing and removing whole objects, by URI (see places.py)."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from mnist_tune.errors import StorageError
from mnist_tune.places import Place, endpoint, join, parse_uri

MAX_BYTES = 1 << 30
"""The largest object that is read: more than any checkpoint or ledger."""

# Every command begins with a question that a person waits for; what comes then should outlive a
# short outage. With nothing listening they take 6 s and 55 s.
_QUICK_ATTEMPTS, _PATIENT_ATTEMPTS = 5, 8
_CONNECT_S, _REQUEST_S = 5, 20
_GCS_QUICK_S, _GCS_PATIENT_S = 5, 60
_THREADS = 8


def exists(place: Place) -> bool:
    """Whether there is such a file; soon gives up.

    Raises:
        StorageError: the store can't be asked, or has no such bucket.
    """
    if isinstance(place, Path):
        # Path.is_file raises for a name that is too long or a directory that can't be entered.
        return os.path.isfile(place)
    from pyarrow.fs import FileType

    system, key = _quick(place)
    with _plain(place, "looked for"):
        if system.get_file_info(key).type == FileType.File:
            return True
    check_bucket(place)
    return False


def check_bucket(uri: str) -> None:
    """Asks whether there is such a bucket; soon gives up.

    Raises:
        StorageError: there isn't, or the store can't be asked.
    """
    from pyarrow.fs import FileType

    system, key = _quick(uri)
    bucket = key.partition("/")[0]
    with _plain(uri, "reached"):
        if system.get_file_info(bucket).type == FileType.NotFound:
            raise FileNotFoundError(f"Bucket '{bucket}' not found")


def read_bytes(uri: str, max_bytes: int = MAX_BYTES) -> bytes | None:
    """The content of an object; None if there is none.

    Raises:
        StorageError: it can't be read, or is larger than ``max_bytes``.
    """
    system, key = _patient(uri)
    with _plain(uri, "read"):
        try:
            with system.open_input_file(key) as file:
                if file.size() > max_bytes:
                    raise StorageError(f"{uri}: over {max_bytes} bytes; not what mnist-tune wrote")
                content: bytes = file.read()
                return content
        except FileNotFoundError:
            return None


def write_bytes(uri: str, content: bytes) -> None:
    """Replaces an object in one step, after all that this process has written before.

    Raises:
        StorageError: it can't be written.
    """

    def write() -> None:
        system, key = _patient(uri)
        with _plain(uri, "written"), system.open_output_stream(key) as stream:
            stream.write(content)

    # In a thread: a Ctrl-C between opening and writing would leave an empty object.
    _thread("writes").submit(write).result()


def files(place: Place) -> list[str]:
    """The names of the files right below a place, sorted; none if there is no such place.

    Raises:
        StorageError: the store can't be asked.
    """
    if isinstance(place, Path):
        return sorted(entry.name for entry in place.glob("*") if entry.is_file())
    return [name for name, is_file in _entries(place) if is_file]


def directories(uri: str) -> list[str]:
    """The names of what has something below it, right below a URI, sorted.

    Raises:
        StorageError: the store can't be asked.
    """
    return [name for name, is_file in _entries(uri) if not is_file]


def modified_s(uris: list[str]) -> list[float | None]:
    """When each object was written, in seconds since 1970; None where there is none.

    Raises:
        StorageError: the store can't be asked.
    """
    if not uris:
        return []
    system, _ = _patient(uris[0])
    with _plain(uris[0], "looked for"):
        found = system.get_file_info([_patient(uri)[1] for uri in uris])
    return [info.mtime.timestamp() if info.is_file and info.mtime else None for info in found]


def read_all(uris: list[str]) -> list[bytes | None]:
    """The contents of many objects, read at the same time; as ``read_bytes``."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(read_bytes, uris))


def delete(place: Place) -> None:
    """Removes a file if it's there.

    Raises:
        StorageError: it can't be removed.
    """
    if isinstance(place, Path):
        place.unlink(missing_ok=True)
        return
    system, key = _patient(place)
    with _plain(place, "removed"), suppress(FileNotFoundError):
        system.delete_file(key)


def delete_tree(uri: str) -> Future[None]:
    """Removes all that is below a URI, in the background; what can't be removed is left."""

    def remove() -> None:
        system, key = _patient(uri)
        with suppress(StorageError), _plain(uri, "removed"), suppress(FileNotFoundError):
            system.delete_dir(key)

    return _thread("removals").submit(remove)


def probe(uri: str) -> None:
    """Writes, reads and removes a small object below a URI.

    Raises:
        StorageError: one of it isn't possible.
    """
    object_uri, content = join(uri, f".probe-{secrets.token_hex(8)}"), secrets.token_bytes(16)
    exists(object_uri)
    write_bytes(object_uri, content)
    if read_bytes(object_uri) != content:
        raise StorageError(f"{uri}: what was written there can't be read back")
    delete(object_uri)


def _quick(uri: str) -> tuple[Any, str]:
    return _system_and_key(uri, _QUICK_ATTEMPTS, _GCS_QUICK_S)


def _patient(uri: str) -> tuple[Any, str]:
    return _system_and_key(uri, _PATIENT_ATTEMPTS, _GCS_PATIENT_S)


def _system_and_key(text: str, attempts: int, gcs_s: int) -> tuple[Any, str]:
    uri = parse_uri(text)
    server = tuple(endpoint(uri).items())
    if uri.scheme == "gs":
        system = _gcs(server, gcs_s)
    else:
        region = dict(uri.query).get("region")
        if region is None and not server:
            with _plain(text, "reached"):
                region = _region(uri.bucket)
        system = _s3(server, region or os.environ.get("AWS_REGION") or "us-east-1", attempts)
    return system, f"{uri.bucket}/{uri.path}".rstrip("/")


@cache
def _region(bucket: str) -> str:
    from pyarrow.fs import resolve_s3_region

    return str(resolve_s3_region(bucket))


@cache
def _s3(server: tuple[tuple[str, str], ...], region: str, attempts: int) -> Any:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    return S3FileSystem(
        **dict(server),
        region=region,
        connect_timeout=_CONNECT_S,
        request_timeout=_REQUEST_S,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=attempts),
        # One request for a small object, not three.
        allow_delayed_open=True,
    )


@cache
def _gcs(server: tuple[tuple[str, str], ...], retry_s: int) -> Any:
    from pyarrow.fs import GcsFileSystem

    return GcsFileSystem(**dict(server), retry_time_limit=timedelta(seconds=retry_s))


@cache
def _thread(name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix=f"mnist-tune-{name}")


def _entries(uri: str) -> list[tuple[str, bool]]:
    from pyarrow.fs import FileSelector, FileType

    system, key = _patient(uri)
    with _plain(uri, "listed"):
        found = system.get_file_info(FileSelector(key, allow_not_found=True))
    return sorted((info.base_name, info.type == FileType.File) for info in found)


@contextmanager
def _plain(uri: str, done: str) -> Iterator[None]:
    """Turns what pyarrow raises into one line of ours."""
    from pyarrow import ArrowException

    try:
        yield
    except (OSError, ArrowException) as error:
        raise StorageError(f"{uri}: cannot be {done}: {_reason(str(error))}") from None


def _reason(said: str) -> str:
    if "NO_SUCH_BUCKET" in said or re.search(r"[Bb]ucket '[^']*' not found", said):
        return "there is no such bucket; make it first, or check --storage-path and its region"
    if re.search(
        "ACCESS_DENIED|ACCESS_KEY_ID|SIGNATURE|TOKEN|HTTP Status 40[13]|PERMISSION|credentials",
        said,
    ):
        return (
            "access is denied; check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "~/.aws/credentials, the machine's role; GOOGLE_APPLICATION_CREDENTIALS for gs://) and "
            "that they may list, read, write and delete there"
        )
    if re.search("NETWORK_CONNECTION|UNAVAILABLE|curlCode", said):
        cause = re.search(r"(Could not|Couldn't|Failed to|Timeout|Connection)[^;:,]*", said)
        return (
            f"no connection ({cause[0].strip() if cause else 'network'}); check the network, and "
            "AWS_ENDPOINT_URL or endpoint_override if it isn't Amazon's or Google's own server"
        )
    return " ".join(said.split())[:300]
