"""Hostile and broken files are refused in words; honest ones give plain data and lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnist_tune.errors import SpaceError
from mnist_tune.space import load_space
from mnist_tune.space_file import MAX_BYTES, read_yaml

# Pieces that mean something to a YAML reader, so that nonsense made of them gets far.
PIECES = (
    *"-?:,[]{}#&*!|>'\"%@`~=.\n\t _\0\x85",
    "\n  ", "\n    ", ": ", "- ", "? ", "--- ", "\n---\n", "\n...\n", "<<: ", "&a ", "*a ", "*a: ",
    "!!int ", "!!float ", "!!bool ", "!!null ", "!!set ", "!!binary ", "!!timestamp ", "!e!x ",
    "!!python/object/apply:os.system ", "%YAML 1.1\n", "%YAML 1.7\n", "%TAG ! !!\n", "1e-4", "1_0",
    "0x", "0o9", "0b2", "-_", "._", ".inf", ".nan", "1:60", "2001-01-01", "2001-13-41", "1" * 5000,
    "0x" + "f" * 5000, "9e999", "true", "null", '"\\ud800"', '"\\x"', "é", "\U0001f600",
    "parameters: ", "parameters:\n  ", "beta: ", "features: ", "distribution: ", "choice",
    "uniform", "qlograndint", "low: ", "high: ", "values: ", "q: ",
)  # fmt: skip
GARBAGE = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)


def write(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "space.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_plain_data_and_the_line_of_everything(tmp_path: Path) -> None:
    document = read_yaml(write(tmp_path, "# first\na:\n  b: 1e-4\n  c:\n    - x\n    - [2, ~]\n"))
    assert document.data == {"a": {"b": 1e-4, "c": ["x", [2, None]]}}
    assert document.lines == {
        (): 1,
        ("a",): 2,
        ("a", "b"): 3,
        ("a", "c"): 4,
        ("a", "c", 0): 5,
        ("a", "c", 1): 6,
        ("a", "c", 1, 0): 6,
        ("a", "c", 1, 1): 6,
    }
    assert document.problems == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.0e-4", 1e-4),
        ("0x10", 16),
        ("1_000", 1000),
        ("-.inf", float("-inf")),
        ("no", "no"),
        ("true", True),
        ("'1'", "1"),
        ("2001-01-01", "2001-01-01"),
        ("!!float 3", 3.0),
        ("{}", {}),
        ("{1: 2, ~: 3}", {"1": 2, "~": 3}),
        ("", None),
    ],
)
def test_scalars_are_yaml_1_2_and_nothing_but_plain_data(
    tmp_path: Path, text: str, value: object
) -> None:
    document = read_yaml(write(tmp_path, text))
    assert document.data == value
    assert type(document.data) is type(value)
    assert document.problems == []


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\nb: 2\na: 3", 3, "duplicate key 'a'; first given in line 1"),
        ("a: &x 1", 1, "anchors (&) and aliases (*) are not allowed; write the value out"),
        ("a: 1\n[b]: 2", 2, "a key must be a word; got a list or a mapping"),
        ("a:\n  !!python/name:os.system", 2, "must be plain data; got the tag 'python/name:os.sy"),
        ("a: !!set {x}", 1, "must be plain data; got the tag 'set'; leave it out"),
        ("a: !mine 3", 1, "must be plain data; got the tag '!mine'; leave it out"),
        ("a: !!int x", 1, "must be a valid int; got 'x'"),
        ("a: !!int ''", 1, "must be a valid int; got ''"),
        ("a: !!bool x", 1, "must be a valid bool; got 'x'"),
        ("a: " + "1" * 5000, 1, "must be a valid int; got '1111"),
    ],
)
def test_refused_parts_are_listed_with_their_line(
    tmp_path: Path, text: str, line: int, problem: str
) -> None:
    [(got_line, got)] = read_yaml(write(tmp_path, text)).problems
    assert got_line == line
    assert got.startswith(problem)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1, 2\nb: 3", r":2: must be YAML; while parsing a flow sequence expected ',' or ']'"),
        ("a:\n\tb: 1", r":2: must be YAML; .*'\\t' that cannot start any token"),
        ("a: 1\n---\nb: 2", r":2: must be YAML; expected a single document"),
        ("*a", r":1: must be YAML; found undefined alias 'a'"),
        ("%YAML 1.9\n--- a", r": must be YAML; version minor part"),
        ("[" * 100_000, r":1: must be YAML; nested more than 20 levels deep$"),
        (b"a: 1\nb: \xff", r":2: must be UTF-8 text; got the byte 0xff; save it as UTF-8$"),
        (b"\x00", r": must be YAML; unacceptable character #x0000"),
        (b"#" * (MAX_BYTES + 1), r": must be ≤ 131072 bytes"),
    ],
)
def test_what_is_not_yaml(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(SpaceError, match=message) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_largest_file_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfa: 1\n"
    assert read_yaml(write(tmp_path, content.ljust(MAX_BYTES, b"#"))).data == {"a": 1}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"nowhere\.yaml: no such file; give the path"):
        read_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(SpaceError, match=r": must be a file; got a directory; give a file in it"):
        read_yaml(tmp_path)
    with pytest.raises(SpaceError, match=r"cannot be read: embedded null byte"):
        read_yaml("a\0b")
    with pytest.raises(SpaceError, match=r"cannot be read: File name too long"):
        read_yaml("a" * 5000)


def test_aliases_of_aliases_cannot_grow(tmp_path: Path) -> None:
    levels = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]" for i in range(1, 60)]
    document = read_yaml(write(tmp_path, "\n".join(levels)))
    assert set(document.data.values()) == {None}
    assert len(document.problems) == 60


@given(GARBAGE)
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_garbage_is_a_space_or_a_space_error(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    said = ""
    try:
        load_space(path)
    except SpaceError as error:
        said = str(error)
    assert all(line.startswith(str(path)) for line in said.splitlines())
    assert said.encode().decode() == said


@given(st.binary(max_size=60))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_are_a_space_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SpaceError):
        load_space(write(tmp_path, content))
