"""Data sets: MNIST is the original, parts are cut right, damage and wrong files are refused."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnist_tune.datasets import (
    Dataset,
    dataset_info,
    import_dataset,
    load_dataset,
    prepare_dataset,
)
from mnist_tune.errors import ConfigError, DataFileError, DataUnavailableError, InputError


def idx_rows(directory: Path, part: str) -> np.ndarray:
    """The images of a part with their labels, read without TFDS: ``uint8 [n, 785]``."""
    images = gzip.decompress((directory / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((directory / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:]
    pixels = np.frombuffer(images, np.uint8).reshape(-1, 784)
    return np.column_stack([pixels, np.frombuffer(labels, np.uint8)])


def sorted_rows(rows: np.ndarray) -> list[bytes]:
    return sorted(map(bytes, np.ascontiguousarray(rows)))


@pytest.fixture
def digits(digits_data_dir: Path) -> Dataset:
    return load_dataset("digits", digits_data_dir)


@pytest.fixture
def own_digits(digits_data_dir: Path, tmp_path: Path) -> Path:
    """A copy of the digits that a test may damage."""
    return Path(shutil.copytree(digits_data_dir, tmp_path / "own"))


@pytest.fixture
def own_idx(idx_dir: Path, tmp_path: Path) -> Path:
    """A directory of links to the four files, of which a test may replace some."""
    directory = tmp_path / "idx"
    directory.mkdir()
    for file in idx_dir.glob("*.gz"):
        (directory / file.name).symlink_to(file)
    return directory


@pytest.mark.slow
def test_mnist_is_the_original(idx_dir: Path, mnist_data_dir: Path) -> None:
    dataset = load_dataset("mnist", mnist_data_dir)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (60_000, 0, 10_000)
    for split, part in [(dataset.train, "train"), (dataset.test, "t10k")]:
        assert split.images.shape == (len(split), 28, 28, 1)
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        rows = np.column_stack([split.images.reshape(-1, 784), split.labels.astype(np.uint8)])
        assert sorted_rows(rows) == sorted_rows(idx_rows(idx_dir, part))


@pytest.mark.slow
def test_mnist_is_in_the_same_order_everywhere(mnist_data_dir: Path) -> None:
    assert load_dataset("mnist", mnist_data_dir).checksum == (
        "bd58c4704eea5663d1e60918ceccceebe201a1af6e8a8ebe8c86a631515c2c48"
    )


@given(validation_size=st.integers(0, 1436), data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_parts_are_cut_without_overlap(
    digits: Dataset, digits_data_dir: Path, validation_size: int, data: st.DataObject
) -> None:
    train_size = data.draw(st.none() | st.integers(1, 1437 - validation_size))
    cut = load_dataset("digits", digits_data_dir, validation_size, train_size)
    rest = 1437 - validation_size
    first = rest if train_size is None else train_size
    for split, start, stop in [(cut.train, 0, first), (cut.validation, rest, 1437)]:
        assert len(split) == stop - start
        np.testing.assert_array_equal(split.images, digits.train.images[start:stop])
        np.testing.assert_array_equal(split.labels, digits.train.labels[start:stop])
    np.testing.assert_array_equal(cut.test.images, digits.test.images)
    assert cut.checksum == digits.checksum


def test_wrong_sizes_and_names_prepare_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--validation-size must be ≥ 0 and < 1437.*got -1"):
        load_dataset("digits", tmp_path, validation_size=-1)
    with pytest.raises(ConfigError, match=r"--train-size must be ≥ 1 and ≤ 1337.*got 1338"):
        load_dataset("digits", tmp_path, validation_size=100, train_size=1338)
    for function in (load_dataset, prepare_dataset, dataset_info):
        with pytest.raises(ConfigError, match=r"unknown data set 'digit'; did you mean 'digits'"):
            function("digit", tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_library_is_imported_to_load(digits_data_dir: Path, tmp_path: Path) -> None:
    program = """
import sys
from mnist_tune.datasets import load_dataset
for data_dir in sys.argv[1:]:
    load_dataset("digits", data_dir, download=False)
heavy = {"tensorflow", "tensorflow_datasets", "sklearn", "jax", "ray"} & set(sys.modules)
assert not heavy, heavy
"""
    directories = [str(digits_data_dir), str(tmp_path / "new")]
    subprocess.run([sys.executable, "-c", program, *directories], check=True)


def test_modules_in_the_current_directory_are_not_mistaken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sklearn.py").write_text("raise SystemExit('not the real one')")
    monkeypatch.chdir(tmp_path)
    assert len(load_dataset("digits", tmp_path / "data").train) == 1437


@pytest.mark.parametrize("file", ["train_images.npy", "test_labels.npy", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_damaged_arrays_are_refused(file: str, damage: str, own_digits: Path) -> None:
    path = own_digits / "mnist-tune" / "digits" / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[:-5])
    else:
        path.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    expected = f"{file}: .*; run `mnist-tune data prepare --dataset digits --data-dir {own_digits}`"
    with pytest.raises(DataFileError, match=expected):
        load_dataset("digits", own_digits)
    assert dataset_info("digits", own_digits).state == "damaged"


def test_prepare_rebuilds_damaged_arrays(own_digits: Path, digits: Dataset) -> None:
    (own_digits / "mnist-tune" / "digits" / "test_images.npy").write_bytes(b"\x93NUMPY")
    assert prepare_dataset("digits", own_digits).checksum == digits.checksum
    assert [path.name for path in (own_digits / "mnist-tune").iterdir()] == ["digits"]


@pytest.mark.slow
def test_prepare_rebuilds_mnist_from_the_files_of_tfds(
    mnist_data_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(mnist_data_dir / "mnist", tmp_path / "mnist")
    rebuilt = prepare_dataset("mnist", tmp_path)
    assert rebuilt.checksum == load_dataset("mnist", mnist_data_dir).checksum

    (tmp_path / "mnist-tune" / "mnist" / "manifest.json").write_text("{}")
    for records in (tmp_path / "mnist").rglob("mnist-train.tfrecord*"):
        content = bytearray(records.read_bytes())
        content[5_000_000] ^= 1
        records.write_bytes(content)
    with pytest.raises(DataFileError, match=r"mnist/3\S*: TensorFlow Datasets cannot read.*remove"):
        prepare_dataset("mnist", tmp_path)


def test_a_file_that_is_far_too_large_is_not_read(own_idx: Path, tmp_path: Path) -> None:
    path = own_idx / "train-images-idx3-ubyte.gz"
    path.unlink()
    path.touch()
    os.truncate(path, 100 << 30)
    with pytest.raises(DataFileError, match=f"{100 << 30} bytes, sha256 not computed; must be"):
        import_dataset("mnist", own_idx, tmp_path / "data")


def test_wrong_idx_files_are_refused(own_idx: Path, tmp_path: Path) -> None:
    content = (own_idx / "train-images-idx3-ubyte.gz").read_bytes()
    labels = (own_idx / "t10k-labels-idx1-ubyte.gz").read_bytes()
    replacements = {
        "train-images-idx3-ubyte.gz": content[:-1],
        "train-labels-idx1-ubyte.gz": None,
        "t10k-labels-idx1-ubyte.gz": labels[:100] + bytes([labels[100] ^ 1]) + labels[101:],
    }
    for name, replacement in replacements.items():
        (own_idx / name).unlink()
        if replacement is not None:
            (own_idx / name).write_bytes(replacement)
    with pytest.raises(DataFileError) as caught:
        import_dataset("mnist", own_idx, tmp_path / "data")
    lines = dict(line.split(": ", 1) for line in str(caught.value).splitlines()[:-1])
    assert set(lines) == {str(own_idx / name) for name in replacements}
    truncated = lines[str(own_idx / "train-images-idx3-ubyte.gz")]
    assert "9912421 bytes, sha256 " in truncated
    assert "must be 9912422 bytes, sha256 440fcabf73cc" in truncated
    assert lines[str(own_idx / "train-labels-idx1-ubyte.gz")].startswith("missing")
    assert (
        "must be 4542 bytes, sha256 f7ae60f9" in lines[str(own_idx / "t10k-labels-idx1-ubyte.gz")]
    )
    assert str(caught.value).endswith("Nothing was imported: get these files again, then repeat it")
    assert not (tmp_path / "data").exists()


def test_files_of_another_data_set_are_recognised(own_idx: Path, tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"not kmnist's file but mnist's \(--dataset mnist\)"):
        import_dataset("kmnist", own_idx, tmp_path / "data")


def test_import_of_what_cannot_be_imported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"digits needs no import"):
        import_dataset("digits", tmp_path, tmp_path)
    with pytest.raises(InputError, match=r"nowhere: must be the directory that holds the four IDX"):
        import_dataset("mnist", tmp_path / "nowhere", tmp_path)


def test_process_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(DataUnavailableError, match=r"status 1; --verbose shows what it"):
        load_dataset("digits", tmp_path / "data")
    assert not list(tmp_path.iterdir())


def test_info(own_digits: Path) -> None:
    info = dataset_info("digits", own_digits)
    files = list((own_digits / "mnist-tune" / "digits").iterdir())
    assert (info.state, info.train_images, info.test_images) == ("ready", 1437, 360)
    assert info.size_bytes == sum(file.stat().st_size for file in files)
    assert info.checksum == load_dataset("digits", own_digits).checksum
    absent = dataset_info("kmnist", own_digits)
    assert (absent.state, absent.checksum, absent.problem) == ("absent", None, None)
