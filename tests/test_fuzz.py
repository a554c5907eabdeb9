"""A short run of ``python -m tests.fuzz``; and that it would find something."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import fuzz


def test_mutated_input_is_accepted_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for target in fuzz.targets(tmp_path).values():
        counts = fuzz.fuzz(target, 40)
        assert counts.refused > 5
    assert not list(tmp_path.rglob("executed"))


def test_another_error_is_found(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"[1, 2]")
    with pytest.raises(ValueError, match="invalid literal"):
        fuzz.fuzz(fuzz.Target(path, lambda path: int(path.read_bytes()[:2])), 100)


def test_an_input_that_is_accepted_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"[1, 2]")
    assert fuzz.fuzz(fuzz.Target(path, Path.read_bytes), 20) == fuzz.Count(20, 0)
    assert path.read_bytes() == b"[1, 2]"
