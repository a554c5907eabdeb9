"""A ledger in a store: numbered objects, of which only the last one is written again.

An object can't be appended to. Written whole after each event, a ledger of 10,000 events would
cost 11 GB of traffic; in segments that are closed at 64 KiB it costs 0.3 GB.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mnist_tune import storage
from mnist_tune.errors import RunError
from mnist_tune.places import join

SEGMENT_BYTES = 1 << 16
_NAME = re.compile(r"([0-9]{8})\.jsonl")


@dataclass
class Segments:
    """What of a driver's ledger is in its store.

    Attributes:
        uri: below which the segments are.
        index: of the segment that is open.
        begin_bytes: where it begins in the driver's file.
    """

    uri: str
    index: int
    begin_bytes: int

    def push(self, path: Path) -> None:
        """Brings the store up to date with the driver's file; returns when it is.

        Raises:
            StorageError: it can't be written.
        """
        with path.open("rb") as file:
            file.seek(self.begin_bytes)
            content = file.read()
        storage.write_bytes(join(self.uri, f"{self.index:08d}.jsonl"), content)
        end_bytes = self.begin_bytes + len(content)
        if len(content) >= SEGMENT_BYTES:
            self.index, self.begin_bytes = self.index + 1, end_bytes


def read(uri: str) -> bytes:
    """The whole ledger.

    Raises:
        RunError: there is none, or a segment is missing.
        StorageError: the store can't be asked for it.
    """
    return b"".join(read_segments(uri))


def read_segments(uri: str) -> list[bytes]:
    """The ledger in its segments; as ``read``."""
    names = [name for name in storage.files(uri) if _NAME.fullmatch(name)]
    found = storage.read_all([join(uri, f"{i:08d}.jsonl") for i in range(len(names))])
    whole = [content for content in found if content is not None]
    if not names or len(whole) < len(found):
        raise RunError(f"{uri}: the ledger is damaged: segment {len(whole)} is missing")
    return whole
