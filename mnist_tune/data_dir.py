"""The data directory: where it is, and arrays that appear in it whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mnist_tune.errors import DataFileError, InputError

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1

Array = npt.NDArray[Any]

Shapes = Mapping[str, tuple[tuple[int, ...], type[np.generic]]]
"""Array name → shape and dtype."""


def default_data_dir() -> Path:
    """Returns the directory that TFDS uses: ``TFDS_DATA_DIR``, else one in the home directory."""
    return Path(os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))


def checked_data_dir(data_dir: str | Path | None) -> Path:
    """Returns the data directory to use, as an absolute path; it need not exist yet.

    Args:
        data_dir: what the user gave; ``default_data_dir()`` if nothing.

    Raises:
        InputError: it is not a directory, not on this machine, or cannot be looked into.
    """
    given = Path(os.path.expanduser(data_dir)) if data_dir else default_data_dir()
    if given.parts[:1] and given.parts[0].endswith(":"):
        raise _unusable(given, "must be on this machine; it is a URL")
    root = given.absolute()
    try:
        mode = root.stat().st_mode
    except FileNotFoundError:
        return root
    except (OSError, ValueError) as error:
        raise _unusable(root, getattr(error, "strerror", None) or str(error)) from error
    if not stat.S_ISDIR(mode):
        raise _unusable(root, "must be a directory; it is a file")
    return root


def _unusable(data_dir: Path, reason: str) -> InputError:
    return InputError(f"data directory {data_dir}: {reason}; choose another with --data-dir")


@contextlib.contextmanager
def staging(place: Path) -> Iterator[Path]:
    """Gives a hidden, empty directory next to ``place`` to work in, and removes it afterwards.

    A parent directory that had to be made for it goes too, unless something was put into it.

    Raises:
        InputError: the directory cannot be written.
    """
    try:
        made = [parent for parent in place.parents if not parent.exists()]
        place.parent.mkdir(parents=True, exist_ok=True)
        work = tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent)
    except OSError as error:
        raise _unusable(place.parent, f"cannot be written ({error.strerror})") from error
    try:
        yield Path(work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(OSError):
            for parent in made:
                parent.rmdir()


def publish(staged: Path, place: Path, *, replace: bool) -> None:
    """Moves a finished directory to ``place`` in one step.

    Where another process got there first, its directory stays: it is as good as this one.

    Args:
        staged: the finished directory, in a ``staging`` directory of the same file system.
        place: where it goes.
        replace: whether a directory that is there already makes way.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    if replace:
        with contextlib.suppress(FileNotFoundError):
            os.rename(place, staged.with_name(f"{staged.name}.old"))
    try:
        os.rename(staged, place)
    except OSError:
        if not place.is_dir():
            raise


def write_arrays(directory: Path, arrays: Mapping[str, Array], source: str) -> None:
    """Writes arrays as ``.npy`` files, with a manifest of their SHA-256 sums.

    Args:
        directory: a new directory.
        arrays: array name → array.
        source: where they come from, for people.
    """
    directory.mkdir()
    for name, array in arrays.items():
        # Not np.save: on a full disk it says how many items it wrote, and not why.
        with (directory / f"{name}.npy").open("wb") as file:
            header = np.lib.format.header_data_from_array_1_0(array)
            np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(array).data)
    manifest = {
        "version": MANIFEST_VERSION,
        "source": source,
        "sha256": {name: file_sha256(directory / f"{name}.npy") for name in arrays},
    }
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def read_arrays(directory: Path, shapes: Shapes) -> tuple[dict[str, Array], str]:
    """Maps arrays written by ``write_arrays`` into memory and verifies them.

    Args:
        directory: where they are.
        shapes: the arrays expected.

    Returns:
        The arrays by name, read-only; the SHA-256 over all of them, in hex.

    Raises:
        DataFileError: a file is missing, truncated or altered.
    """
    sums = _read_manifest(directory / MANIFEST, shapes)
    checksum = hashlib.sha256()
    arrays = {}
    for name, (shape, dtype) in shapes.items():
        array = _map_array(directory / f"{name}.npy", sums[name])
        if array.shape != shape or array.dtype != dtype:
            raise DataFileError(
                f"{directory / name}.npy: must hold {np.dtype(dtype)} {list(shape)}; "
                f"it holds {array.dtype} {list(array.shape)}"
            )
        # Of the array, not of the file, whose header may differ between versions of NumPy.
        checksum.update(np.ascontiguousarray(array).data)
        arrays[name] = array
    return arrays, checksum.hexdigest()


def _read_manifest(path: Path, names: Iterable[str]) -> dict[str, str]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["version"] != MANIFEST_VERSION:
            raise DataFileError(
                f"{path}: version must be {MANIFEST_VERSION}; it is {manifest['version']!r}"
            )
        return {name: str(manifest["sha256"][name]) for name in names}
    except OSError as error:
        raise DataFileError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataFileError(f"{path}: truncated or altered") from error


def _map_array(path: Path, sha256: str) -> Array:
    try:
        # Before NumPy parses it: a damaged header makes it fail in ways of its own.
        found_sha256 = file_sha256(path)
        if found_sha256 != sha256:
            raise DataFileError(
                f"{path}: truncated or altered: its SHA-256 must be {sha256}; it is {found_sha256}"
            )
        mapped: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataFileError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise DataFileError(f"{path}: not an array of mnist-tune ({error})") from error
    return mapped.view(np.ndarray)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
