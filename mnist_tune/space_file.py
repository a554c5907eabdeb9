"""Reads a YAML file to plain data with the line of every key; constructs no objects."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_tune.errors import SpaceError

KeyPath = tuple[str | int, ...]
"""The way from the top of a document to a value, as in ``("parameters", "beta", "low")``."""

MAX_BYTES = 2**17
MAX_DEPTH = 20

_TAG = "tag:yaml.org,2002:"
_PARSED = ("bool", "float", "int", "null")
# What YAML would make a date or a merge of stays the text that it is.
_TEXT = ("str", "timestamp", "merge", "value")


@dataclass(frozen=True)
class YamlData:
    """What a YAML file holds.

    Args:
        data: mappings (keys always text), lists, text, numbers, booleans and None.
        lines: where each key and list item is, from 1.
        unreadable: where a value was refused; ``data`` has None there.
        problems: what was refused, as (line, message).
    """

    data: Any
    lines: dict[KeyPath, int]
    unreadable: set[KeyPath]
    problems: list[tuple[int, str]]


def read_yaml(path: str | Path) -> YamlData:
    """Reads a YAML file that may come from anyone.

    Args:
        path: the file, at most 128 KiB.

    Returns, Raises:
        As ``parse_yaml``; ``SpaceError`` also if the file cannot be read.
    """
    return parse_yaml(_read_text(path), str(path))


def parse_yaml(text: str, source: str) -> YamlData:
    """Reads YAML that may come from anyone.

    Refuses more than 20 levels, anchors, aliases, duplicate keys and every tag that is not
    plain data; what can be listed with others is in ``problems``.

    Args:
        text: the YAML.
        source: what to call it in a message.

    Raises:
        SpaceError: it is not YAML.
    """
    node, construct = _compose(text, source)
    lines: dict[KeyPath, int] = {(): 1}
    problems: list[tuple[int, str]] = []
    unreadable: set[KeyPath] = set()

    def plain(node: Any, at: KeyPath) -> Any:
        line = node.start_mark.line + 1
        lines.setdefault(at, line)
        kind = str(node.tag).removeprefix(_TAG)
        if node.anchor is not None:
            problems.append(
                (line, "anchors (&) and aliases (*) are not allowed; write the value out")
            )
        elif kind == "map" and isinstance(node.value, list):
            return mapping(node, at)
        elif kind == "seq" and isinstance(node.value, list):
            return [plain(item, (*at, index)) for index, item in enumerate(node.value)]
        elif kind in _TEXT and isinstance(node.value, str):
            return node.value
        elif kind in _PARSED and isinstance(node.value, str):
            try:
                return construct(node)
            except (ValueError, LookupError):
                problems.append((line, f"must be a valid {kind}; got {node.value[:60]!r}"))
        else:
            problems.append((line, f"must be plain data; got the tag {kind[:60]!r}; leave it out"))
        unreadable.add(at)
        return None

    def mapping(node: Any, at: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key, str):
                problems.append((line, "a key must be a word; got a list or a mapping"))
            elif key in data:
                first = lines[*at, key]
                problems.append((line, f"duplicate key {key[:60]!r}; first given in line {first}"))
            else:
                lines[*at, key] = line
                data[key] = plain(value_node, (*at, key))
        return data

    data = None if node is None else plain(node, ())
    return YamlData(data, lines, unreadable, problems)


def _read_text(path: str | Path) -> str:
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SpaceError(f"{path}: no such file; give the path of a search space file") from None
    except IsADirectoryError:
        raise SpaceError(f"{path}: must be a file; got a directory; give a file in it") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpaceError(f"{path}: cannot be read: {reason}") from None
    if len(content) > MAX_BYTES:
        raise SpaceError(f"{path}: must be ≤ {MAX_BYTES} bytes; got more: not a search space?")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpaceError(
            f"{path}:{line}: must be UTF-8 text; got the byte 0x{content[error.start]:02x}; "
            "save it as UTF-8"
        ) from None


def _compose(text: str, source: str) -> tuple[Any, Callable[[Any], Any]]:
    """The tree of YAML nodes, None for an empty file, and what parses a scalar node."""
    from ruamel.yaml import YAML
    from ruamel.yaml.composer import MaxDepthExceededError
    from ruamel.yaml.error import MarkedYAMLError

    yaml = YAML(typ="safe", pure=True)
    yaml.max_depth = MAX_DEPTH
    try:
        with warnings.catch_warnings():
            # Of an anchor defined twice; anchors are refused anyway.
            warnings.simplefilter("ignore")
            return yaml.compose(text), yaml.constructor.construct_object
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        said = " ".join(part for part in (error.context, error.problem) if part)
        if isinstance(error, MaxDepthExceededError):
            said = f"nested more than {MAX_DEPTH} levels deep"
    # ruamel.yaml lets AssertionError, AttributeError and others out on malformed text.
    except Exception as error:  # noqa: BLE001
        line, said = "", str(error) or type(error).__name__
    raise SpaceError(f"{source}{line}: must be YAML; {' '.join(said.split())[:200]}")
