"""The data directory: where it is, arrays that verify, work that appears whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_tune.data_dir import (
    MANIFEST,
    Array,
    checked_data_dir,
    default_data_dir,
    publish,
    read_arrays,
    staging,
    write_arrays,
)
from mnist_tune.errors import DataFileError, InputError

SHAPES = {"images": ((5, 3), np.uint8), "labels": ((5,), np.int32)}
ARRAYS: dict[str, Array] = {
    "images": np.arange(15, dtype=np.uint8).reshape(5, 3),
    "labels": np.arange(5, dtype=np.int32),
}


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    write_arrays(tmp_path / "arrays", ARRAYS, "a test")
    return tmp_path / "arrays"


@pytest.mark.parametrize("variable", [None, "/somewhere/else", "~/data"])
def test_default_data_dir_is_the_one_of_tfds(
    variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    if variable:
        monkeypatch.setenv("TFDS_DATA_DIR", variable)
    program = "from tensorflow_datasets.core import constants; print(constants.DATA_DIR)"
    of_tfds = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    # TFDS expands ~ later, when it uses the constant.
    assert str(default_data_dir()) == os.path.expanduser(of_tfds.stdout.strip())


def test_data_dir_need_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "variable"))
    assert checked_data_dir("a/b") == tmp_path / "a" / "b"
    assert checked_data_dir("~/c") == tmp_path / "home" / "c"
    assert checked_data_dir("") == checked_data_dir(None) == tmp_path / "variable"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("file", r"file: must be a directory; it is a file; choose another with --data-dir"),
        ("file/below", r"file/below: Not a directory; choose another with --data-dir"),
        ("gs://bucket/data", r"gs:/bucket/data: must be on this machine; it is a URL"),
        ("nul\0", r"embedded null"),
    ],
)
def test_data_dir_that_cannot_be_used(
    given: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(InputError, match=message):
        checked_data_dir(given)


def _fail_half_way(place: Path) -> None:
    with staging(place) as work:
        (work / "half").write_text("written")
        raise ZeroDivisionError


def test_staging_leaves_nothing_but_what_was_published(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b" / "place"
    with pytest.raises(ZeroDivisionError):
        _fail_half_way(place)
    assert not list(tmp_path.iterdir())

    (tmp_path / "a").mkdir()
    with pytest.raises(ZeroDivisionError):
        _fail_half_way(place)
    assert [*tmp_path.rglob("*")] == [tmp_path / "a"]

    with staging(place) as work:
        (work / "whole").mkdir()
        publish(work / "whole", place, replace=False)
    assert [*tmp_path.rglob("*")] == [tmp_path / "a", place.parent, place]


def test_staging_in_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):  # root may write anywhere; a file in the way stops it too
        (locked / "cache").touch()
    with pytest.raises(InputError, match=r"locked/cache: cannot be written \(.+\); choose another"):
        _fail_half_way(locked / "cache" / "place")


def test_the_first_to_publish_stays_unless_replaced(tmp_path: Path) -> None:
    place = tmp_path / "place"
    for text, replace, expected in [
        ("first", False, "first"),
        ("second", False, "first"),
        ("third", True, "third"),
    ]:
        with staging(place) as work:
            (work / "new").mkdir()
            (work / "new" / "text").write_text(text)
            publish(work / "new", place, replace=replace)
        assert (place / "text").read_text() == expected
    assert [*tmp_path.iterdir()] == [place]


def test_arrays_come_back_mapped_and_read_only(stored: Path) -> None:
    arrays, checksum = read_arrays(stored, SHAPES)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)
        assert type(arrays[name]) is np.ndarray
        assert isinstance(arrays[name].base, np.memmap)
        assert not arrays[name].flags.writeable
    assert read_arrays(stored, SHAPES)[1] == checksum
    assert len(checksum) == 64


def test_checksum_tells_any_two_data_sets_apart(stored: Path, tmp_path: Path) -> None:
    changed = {**ARRAYS, "labels": ARRAYS["labels"][::-1].copy()}
    write_arrays(tmp_path / "changed", changed, "a test")
    assert read_arrays(stored, SHAPES)[1] != read_arrays(tmp_path / "changed", SHAPES)[1]


@given(st.data())
def test_any_damage_is_refused_unless_it_changes_nothing(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        stored = Path(directory) / "arrays"
        write_arrays(stored, ARRAYS, "a test")
        _, checksum = read_arrays(stored, SHAPES)
        path = stored / data.draw(st.sampled_from(["images.npy", "labels.npy", MANIFEST]))
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[at] ^= data.draw(st.integers(1, 255))
        else:
            del content[at:]
        path.write_bytes(content)
        with contextlib.suppress(DataFileError):
            arrays, found = read_arrays(stored, SHAPES)
            assert path.name == MANIFEST
            assert found == checksum
            assert all((arrays[name] == array).all() for name, array in ARRAYS.items())


def test_damage_is_told_apart(stored: Path) -> None:
    images, manifest = stored / "images.npy", stored / MANIFEST
    content, record = images.read_bytes(), manifest.read_text()

    for damaged in [content[:-1], content[:-1] + b"\xff", b"\xff" + content[1:], b""]:
        images.write_bytes(damaged)
        with pytest.raises(DataFileError, match=r"images.npy: truncated or altered: its SHA-256"):
            read_arrays(stored, SHAPES)
    images.unlink()
    with pytest.raises(DataFileError, match=r"images.npy: No such file"):
        read_arrays(stored, SHAPES)
    images.write_bytes(content)

    with pytest.raises(DataFileError, match=r"must hold uint8 \[4, 3\]; it holds uint8 \[5, 3\]"):
        read_arrays(stored, {**SHAPES, "images": ((4, 3), np.uint8)})
    manifest.write_text(json.dumps({**json.loads(record), "version": 2}))
    with pytest.raises(DataFileError, match=r"manifest.json: version must be 1; it is 2"):
        read_arrays(stored, SHAPES)
    for altered in (record[:-10], "[" * 100_000):
        manifest.write_text(altered)
        with pytest.raises(DataFileError, match=r"manifest.json: truncated or altered"):
            read_arrays(stored, SHAPES)
    manifest.unlink()
    with pytest.raises(DataFileError, match=r"manifest.json: No such file"):
        read_arrays(stored, SHAPES)
