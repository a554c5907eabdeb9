"""Checkpoints come back bit for bit, are replaced in one step, and execute nothing."""

from __future__ import annotations

import json
import math
import os
import pickle
import stat
import struct
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save

from mnist_tune.checkpoints import read_checkpoint, write_atomically, write_checkpoint
from mnist_tune.errors import CheckpointError

reuses_tmp_path = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

names = st.text(st.characters(codec="utf-8", exclude_characters="."), min_size=1, max_size=8)
dtypes = st.sampled_from(
    [np.bool_, np.uint8, np.int32, np.uint32, np.int64, np.float16, np.float32, np.float64]
)
leaves = dtypes.flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
    )
)
trees = st.recursive(
    leaves, lambda branch: st.dictionaries(names, branch, min_size=1, max_size=3), max_leaves=6
).filter(lambda tree: isinstance(tree, dict))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda value: st.lists(value, max_size=3) | st.dictionaries(st.text(), value, max_size=3),
    max_leaves=8,
)

TREE = {"params": {"dense": {"kernel": np.arange(12, dtype=np.float32).reshape(3, 4)}}}


def assert_same(got: Any, want: Any) -> None:
    if isinstance(want, Mapping):
        assert set(got) == set(want)
        for name, value in want.items():
            assert_same(got[name], value)
    else:
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        assert got.tobytes() == want.tobytes()


@reuses_tmp_path
@given(trees, st.dictionaries(st.text(), json_values, max_size=4))
def test_what_is_written_is_read(tmp_path: Path, tree: dict[str, Any], meta: Any) -> None:
    write_checkpoint(tmp_path / "new" / "directory" / "file", tree, meta)
    got, got_meta = read_checkpoint(tmp_path / "new" / "directory" / "file")
    assert_same(got, tree)
    assert got_meta == meta


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(20.0)[::3],
        np.arange(6.0).reshape(2, 3).T,
        np.broadcast_to(np.float32(3), (2, 2)),
        np.array([np.nan, -np.nan, np.inf, -0.0, 5e-324]),
    ],
)
def test_arrays_of_any_layout_keep_their_values(tmp_path: Path, array: np.ndarray) -> None:
    write_checkpoint(tmp_path / "file", {"array": array}, {})
    assert_same(read_checkpoint(tmp_path / "file")[0], {"array": np.array(array, order="C")})


def test_meta_keeps_a_loss_that_is_not_a_number(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "file", TREE, {"loss": math.nan, "worst": math.inf})
    meta = read_checkpoint(tmp_path / "file")[1]
    assert math.isnan(meta["loss"])
    assert meta["worst"] == math.inf


def test_a_new_checkpoint_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for epoch in (1, 2):
        write_checkpoint(path, {"x": np.full(3, epoch)}, {"epoch": epoch})
    assert read_checkpoint(path)[1] == {"epoch": 2}
    assert os.listdir(tmp_path) == ["file"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old", sync=False)

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new", sync=False)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("sync", [True, False])
def test_what_cannot_be_made_again_is_on_the_disk_before_it_replaces_the_old(
    sync: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, done = tmp_path / "file", []
    replace = os.replace

    def synced(handle: int) -> None:
        done.append(f"{os.fstat(handle).st_size} bytes synced")

    def replaced(*names: Path) -> None:
        done.append("replaced")
        replace(*names)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_atomically(path, b"new", sync=sync)
    assert done == (["3 bytes synced"] if sync else []) + ["replaced"]


def test_a_reader_never_sees_a_part_of_a_file(tmp_path: Path) -> None:
    path, stop = tmp_path / "file", threading.Event()
    old, new = b"a" * 2_000_000, b"b" * 1_000_000
    write_atomically(path, old, sync=False)

    def write() -> None:
        while not stop.is_set():
            write_atomically(path, new, sync=False)
            write_atomically(path, old, sync=False)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = {path.read_bytes() for _ in range(300)}
    finally:
        stop.set()
        writer.join()
    assert seen <= {old, new}


@reuses_tmp_path
@given(st.data())
def test_a_truncated_file_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    whole = save({"x": np.arange(9.0)}, metadata={"mnist-tune": "{}"})
    path = tmp_path / "file"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CheckpointError, match=r"file: not a checkpoint of mnist-tune \("):
        read_checkpoint(path)


@reuses_tmp_path
@given(st.binary(max_size=200))
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a checkpoint of mnist-tune"):
        read_checkpoint(tmp_path / "file")


ARRAYS = {"x": np.ones(3)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (save(ARRAYS), "'mnist-tune'"),
        (save(ARRAYS, metadata={"format": "pt"}), "'mnist-tune'"),
        (save(ARRAYS, metadata={"mnist-tune": "{"}), "Expecting property name"),
        (save(ARRAYS, metadata={"mnist-tune": "[1]"}), "meta must be a mapping; got list"),
        (save(ARRAYS, metadata={"mnist-tune": "[" * 100_000}), "maximum recursion depth"),
        (
            save({"x": np.ones(3), "x.y": np.ones(3)}, metadata={"mnist-tune": "{}"}),
            "x is both an array and a branch of x.y",
        ),
    ],
)
def test_safetensors_of_someone_else_are_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"not a checkpoint of mnist-tune \(.*{message}"):
        read_checkpoint(tmp_path / "file")


def test_a_header_that_claims_more_than_there_is_is_refused(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"mnist-tune": "{}"},
        "x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]},
    }
    text = json.dumps(header).encode()
    (tmp_path / "file").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(CheckpointError, match="not a checkpoint of mnist-tune"):
        read_checkpoint(tmp_path / "file")


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing: there is no such checkpoint"):
        read_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="not a checkpoint of mnist-tune"):
        read_checkpoint(tmp_path)


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    crater, path = tmp_path / "crater", tmp_path / "file"
    path.write_bytes(pickle.dumps(Bomb(crater)))
    with pytest.raises(CheckpointError, match="not a checkpoint of mnist-tune"):
        read_checkpoint(path)
    assert not crater.exists()
    pickle.loads(path.read_bytes())
    assert crater.exists()
