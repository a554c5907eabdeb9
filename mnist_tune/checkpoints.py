"""Checkpoints: arrays and JSON in one safetensors file, written in one step."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mnist_tune import storage
from mnist_tune.errors import CheckpointError
from mnist_tune.places import Place

Arrays = dict[str, Any]
"""A tree of dictionaries with arrays as leaves."""

_META = "mnist-tune"

LAST = "last.safetensors"


def best_name(epoch: int) -> str:
    """The file of a trial's parameters after an epoch that was its best so far."""
    return f"best-{epoch:05d}.safetensors"


def write_checkpoint(place: Place, arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Writes a checkpoint; a reader sees the old file or the new one, never a part.

    Args:
        place: the file, whose directory is made if it's missing; or the object.
        arrays: a tree of dictionaries; leaves are anything NumPy can read without a copy.
        meta: anything JSON can hold.
    """
    flat = {name: np.asarray(leaf, order="C") for name, leaf in _flatten(arrays).items()}
    content = save(flat, metadata={_META: json.dumps(meta)})
    if isinstance(place, Path):
        write_atomically(place, content, sync=False)
    else:
        storage.write_bytes(place, content)


def read_checkpoint(place: Place) -> tuple[Arrays, dict[str, Any]]:
    """Reads a checkpoint's arrays and its meta; nothing in the file is executed.

    Raises:
        CheckpointError: the file is missing, damaged or not one of ours.
        StorageError: the store can't be asked for it.
    """
    if isinstance(place, Path):
        return _read(place, place)
    content = storage.read_bytes(place)
    if content is None:
        raise CheckpointError(f"{place}: there is no such checkpoint")
    with tempfile.TemporaryDirectory(prefix="mnist-tune-") as directory:
        path = Path(directory) / LAST
        path.write_bytes(content)
        return _read(path, place)


def _read(path: Path, place: Place) -> tuple[Arrays, dict[str, Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            meta = json.loads((file.metadata() or {})[_META])
            if not isinstance(meta, dict):
                raise ValueError(f"its meta must be a mapping; got {type(meta).__name__}")
            return _unflatten({name: file.get_tensor(name) for name in file.keys()}), meta  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{place}: there is no such checkpoint") from None
    except (OSError, SafetensorError, LookupError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{place}: not a checkpoint of mnist-tune ({error})") from None


def write_atomically(path: Path, content: bytes, *, sync: bool) -> None:
    """Replaces ``path`` by a file with this content, in one step.

    Args:
        path: the file; its directory is made if it's missing.
        content: all of it.
        sync: have it on the disk before it replaces the other, so that not even a power failure
            leaves neither; for what can't be made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _unflatten(flat: Mapping[str, NDArray[Any]]) -> Arrays:
    tree: Arrays = {}
    for name, value in flat.items():
        *branches, leaf = name.split(".")
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
            if not isinstance(node, dict):
                raise ValueError(f"{branch} is both an array and a branch of {name}")
        node[leaf] = value
    return tree
