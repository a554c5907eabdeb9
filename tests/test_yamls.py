"""What we write is read back as it was; what we wouldn't write is refused, and quickly."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mnist_tune.errors import RunError
from mnist_tune.yamls import dump_yaml, load_yaml

QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "file.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def there_and_back(value: dict[str, Any], tmp_path: Path) -> Any:
    return load_yaml(write(tmp_path, dump_yaml(value)))


@QUICK
@example(number=0.1 + 0.2)
@example(number=1e-5)
@example(number=5e-324)
@example(number=-0.0)
@example(number=1e22)
@example(number=float("inf"))
@given(number=st.floats(allow_nan=False))
def test_floats_keep_every_bit(number: float, tmp_path: Path) -> None:
    found = there_and_back({"number": number, "list": [number]}, tmp_path)
    for read in (found["number"], found["list"][0]):
        assert type(read) is float
        assert struct.pack("<d", read) == struct.pack("<d", number)


# Text that YAML would read as something else if it weren't quoted.
TEMPTING = (
    *("", "1", "007", "1e5", "1.5", "0x1f", "0o7", "1_000", ".inf", ".nan", "-", "1:30", "null"),
    *("~", "Null", "true", "no", "on", "y", "<<", "=", "2001-01-01", "# no", "a: b", "- a", "!!x"),
    *("&a", "*a", "{a}", "[a]", "%x", "@x", "`x", "'", '"', "\\", "a\nb", " a ", "\t", "\x85", "é"),
    *("---", "...", "00000", "|", ">", "? a", "\U0001f600", "\u2028", "\ufeff", "\x07", "\r"),
)


@pytest.mark.parametrize("text", TEMPTING)
def test_text_stays_text(text: str, tmp_path: Path) -> None:
    assert there_and_back({"text": text, "list": [text]}, tmp_path) == {
        "text": text,
        "list": [text],
    }
    if text:
        assert there_and_back({text: 1}, tmp_path) == {text: 1}


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)


@QUICK
@given(value=st.dictionaries(st.text(max_size=20), PLAIN, max_size=5))
def test_plain_data_comes_back(value: dict[str, Any], tmp_path: Path) -> None:
    found = there_and_back(value, tmp_path)
    assert found == value
    assert repr(found) == repr(value), "the types and the order too"


def test_mappings_keep_their_order_and_tuples_become_lists(tmp_path: Path) -> None:
    found = there_and_back({"b": 1, "a": (32, 64), "c": {"z": None, "y": True}}, tmp_path)
    assert list(found) == ["b", "a", "c"]
    assert found["a"] == [32, 64]
    assert list(found["c"]) == ["z", "y"]


def test_what_is_written_is_for_people(tmp_path: Path) -> None:
    shared = [32, 64]
    text = dump_yaml({"config": {"features": shared, "learning_rate": 0.01}, "again": shared})
    assert text.decode().splitlines() == [
        "config:",
        "  features:",
        "  - 32",
        "  - 64",
        "  learning_rate: 0.01",
        "again:",
        "- 32",
        "- 64",
    ]


def test_a_long_text_stays_on_one_line(tmp_path: Path) -> None:
    assert dump_yaml({"text": "word " * 300 + "end"}).count(b"\n") == 1


@pytest.mark.parametrize(
    ("content", "kind"),
    [("", "NoneType"), ("# only\n", "NoneType"), ("- 1\n", "list"), ("text", "str"), ("3", "int")],
)
def test_what_is_not_a_mapping(content: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"file.yaml: must hold a mapping; got {kind}"):
        load_yaml(write(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1, 2\nb: 3\n", r"file\.yaml:2: must be YAML; while parsing a flow sequence"),
        ("a: 1\n\tb: 2\n", r"file\.yaml:2: must be YAML"),
        (b"a: \xff\n", r"file\.yaml: must be UTF-8 text .*0xff"),
        ("a: 1\nb: 2\na: 3\n", r"file\.yaml:3: duplicate key 'a'; first given in line 1"),
        ("a: &x [1]\nb: *x\n", r"file\.yaml:1: anchors \(&\) and aliases \(\*\) are not allowed"),
        ("a: " + "[" * 30 + "]" * 30, r"nested more than 20 levels deep"),
        ("a: " + "[" * 200_000, r"nested more than 20 levels deep"),
        ("a: !!float x\n", "must be a valid float; got 'x'"),
        ("--- 1\n--- 2\n", "must be YAML"),
    ],
)
def test_what_we_would_not_write(content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=message):
        load_yaml(write(tmp_path, content))


def test_problems_are_listed_but_not_without_end(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        load_yaml(write(tmp_path, "".join(f"a{i}: !x {i}\n" for i in range(500))))
    lines = str(caught.value).splitlines()
    assert len(lines) == 10
    assert lines[1].endswith("file.yaml:2: must be plain data; got the tag '!x'; leave it out")


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.mkdir ['MARK']",
        "!!python/object/new:os.mkdir ['MARK']",
        "!!python/name:os.mkdir",
        "!!python/module:os",
        "!!binary aGk=",
        "!!set {a, b}",
        "!mine {a: 1}",
    ],
)
def test_a_tag_is_refused_and_not_executed(value: str, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    for content in (f"a: {value}\n", f"{value}\n"):
        with pytest.raises(RunError, match="must be plain data; got the tag"):
            load_yaml(write(tmp_path, content.replace("MARK", str(mark))))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
)
def test_a_file_that_cannot_be_read(make: Any, message: str, tmp_path: Path) -> None:
    make(tmp_path / "file.yaml")
    with pytest.raises(RunError, match=rf"file\.yaml: cannot be read \({message}\)"):
        load_yaml(tmp_path / "file.yaml")


def test_a_file_that_is_too_big_is_not_parsed(tmp_path: Path) -> None:
    content = "a: 1\n" + "#" * (2**20 - 5)
    assert load_yaml(write(tmp_path, content)) == {"a": 1}
    with pytest.raises(RunError, match="over 1048576 bytes"):
        load_yaml(write(tmp_path, content + "#"))
    os.truncate(tmp_path / "file.yaml", 1 << 40)
    with pytest.raises(RunError, match="over 1048576 bytes"):
        load_yaml(tmp_path / "file.yaml")


# In a process of its own, which may not have more than a little memory.
LOAD = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from mnist_tune.errors import RunError
from mnist_tune.yamls import load_yaml
try:
    load_yaml(Path(sys.argv[1]))
except RunError as refused:
    print(str(refused)[:4000])
"""


def laughs(levels: int, width: int) -> str:
    lines = (f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * width)}]\n" for i in range(1, levels))
    return f"a0: &a0 [{','.join(['ha'] * width)}]\n" + "".join(lines)


def merges(levels: int) -> str:
    lines = (f"a{i}: &a{i}\n  <<: [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, levels))
    return "a0: &a0 {x: 1}\n" + "".join(lines)


@pytest.mark.parametrize(
    "content", [laughs(30, 9), laughs(200, 50), merges(30)], ids=["laughs", "wide", "merges"]
)
def test_a_bomb_of_aliases_is_refused_at_once(content: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(write(tmp_path, content))],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "anchors (&) and aliases (*) are not allowed" in done.stdout
