"""A server that speaks S3's protocol, on this machine, in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from processes import wait_until


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """Gives its HOST:PORT."""
    address = f"127.0.0.1:{free_port()}"
    with log.open("wb") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-p", address.partition(":")[2]],
            stdout=file,
            stderr=file,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
    try:
        wait_until(lambda: _answers(address), 60, "an S3 server")
        yield address
    finally:
        server.kill()
        server.wait()


def make_bucket(address: str, bucket: str) -> None:
    request = urllib.request.Request(f"http://{address}/{bucket}", method="PUT")
    urllib.request.urlopen(request, timeout=10).close()


def objects(address: str, bucket: str) -> dict[str, int]:
    """Key → size of all that is in a bucket, but for markers of directories."""
    import boto3

    client = boto3.client(
        "s3", endpoint_url=f"http://{address}", region_name="us-east-1", verify=False
    )
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    found = [entry for page in pages for entry in page.get("Contents", [])]
    return {entry["Key"]: entry["Size"] for entry in found if not entry["Key"].endswith("/")}


def _answers(address: str) -> bool:
    with suppress(OSError):
        urllib.request.urlopen(f"http://{address}/moto-api/", timeout=5).close()
        return True
    return False
