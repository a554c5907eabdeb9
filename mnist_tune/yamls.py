"""YAML that we write ourselves: plain values out, plain values in, nothing executed."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from mnist_tune import storage
from mnist_tune.errors import RunError, SpaceError
from mnist_tune.places import Place
from mnist_tune.space_file import parse_yaml

MAX_BYTES = 1 << 20

_MAX_LISTED = 10


def dump_yaml(value: Mapping[str, Any]) -> bytes:
    """A mapping as block-style YAML in its own order; floats read back bit for bit."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.width = 4096
    # Unescaped, some line breaks of Unicode would not come back as they were.
    yaml.allow_unicode = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = io.BytesIO()
    yaml.dump(_plain(value), text)
    return text.getvalue()


def load_yaml(path: Place) -> dict[str, Any]:
    """Reads a mapping from a YAML file, or from an object.

    Raises:
        RunError: the file can't be read, is over 1 MiB, isn't YAML, isn't a mapping, or holds
            what isn't plain data (see ``parse_yaml``).
        StorageError: the store can't be asked for it.
    """
    content = _content(path)
    if len(content) > MAX_BYTES:
        raise RunError(f"{path}: over {MAX_BYTES} bytes; not a file that mnist-tune wrote")
    try:
        document = parse_yaml(content.decode(), str(path))
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: must be UTF-8 text ({error})") from None
    except SpaceError as error:
        raise RunError(str(error)) from None
    if document.problems:
        listed = [f"{path}:{line}: {text}" for line, text in document.problems[:_MAX_LISTED]]
        raise RunError("\n".join(listed))
    if not isinstance(document.data, dict):
        raise RunError(f"{path}: must hold a mapping; got {type(document.data).__name__}")
    return document.data


def _content(path: Place) -> bytes:
    if isinstance(path, str):
        found = storage.read_bytes(path, MAX_BYTES)
        if found is None:
            raise RunError(f"{path}: cannot be read (No such object)")
        return found
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
