"""A ledger in segments, on a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
from examples import drawn, report
from object_store import objects

from mnist_tune import ledger, segments, storage
from mnist_tune.errors import RunError
from mnist_tune.places import join
from mnist_tune.segments import Segments


@pytest.fixture
def uri(bucket: str) -> str:
    return f"s3://{bucket}/run/ledger"


def test_only_the_last_segment_is_written_again(
    uri: str, bucket: str, s3_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 1000)
    path, pushed = tmp_path / "ledger.jsonl", Segments(uri, 0, 0)
    ledger.append(path, [drawn(trial) for trial in range(10)])
    pushed.push(path)
    written = []
    write = storage.write_bytes
    monkeypatch.setattr(
        storage, "write_bytes", lambda u, content: (written.append(len(content)), write(u, content))
    )
    for epoch in range(1, 31):
        ledger.append(path, [report(0, epoch)])
        pushed.push(path)
        assert ledger.read(uri) == ledger.read(path)
    assert segments.read(uri) == path.read_bytes()
    assert max(written) < 1300
    stored = objects(s3_address, bucket)
    assert list(stored) == [f"run/ledger/{i:08d}.jsonl" for i in range(pushed.index + 1)]
    assert len(stored) > 4


def test_a_missing_segment_is_damage(uri: str) -> None:
    with pytest.raises(RunError, match="ledger: the ledger is damaged: segment 0 is missing"):
        ledger.read(uri)
    for i in range(3):
        storage.write_bytes(join(uri, f"{i:08d}.jsonl"), b"")
    storage.delete(join(uri, "00000001.jsonl"))
    with pytest.raises(RunError, match=r"ledger: the ledger is damaged: segment 1 is missing"):
        ledger.read(uri)


def test_other_objects_are_not_read(uri: str) -> None:
    storage.write_bytes(join(uri, "00000000.jsonl"), b"")
    storage.write_bytes(join(uri, "notes.jsonl"), b"none of it")
    assert ledger.read(uri) == []


def test_a_damaged_line_is_named(uri: str) -> None:
    storage.write_bytes(join(uri, "00000000.jsonl"), b"{}\n")
    with pytest.raises(RunError, match=r"^s3://.*/run/ledger:1: the ledger is damaged here"):
        ledger.read(uri)
