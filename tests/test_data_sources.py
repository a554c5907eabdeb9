"""The data sets that there are, the sizes they can be cut to, the commands that are suggested."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_tune.data_sources import (
    DATASETS,
    check_sizes,
    default_validation_size,
    options,
    source_of,
    ways_out,
)
from mnist_tune.errors import ConfigError


def test_names() -> None:
    assert list(DATASETS) == ["mnist", "fashion_mnist", "kmnist", "digits"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("fashon_mnist", "did you mean 'fashion_mnist'"), ("xyz", "known: mnist, fashion_mnist")],
)
def test_unknown_name(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"--dataset: unknown data set '{name}'; {hint}"):
        source_of(name)


@pytest.mark.parametrize(("name", "size"), [("mnist", 5000), ("kmnist", 5000), ("digits", 287)])
def test_default_validation_size(name: str, size: int) -> None:
    assert default_validation_size(name) == size
    assert check_sizes(name, size, None) == DATASETS[name].train_images - size


@given(
    st.sampled_from(sorted(DATASETS)),
    st.integers(-2, 60_002) | st.integers(1434, 1440),
    st.none() | st.integers(-2, 60_002) | st.integers(1434, 1440),
)
def test_sizes_are_refused_exactly_when_they_leave_no_image(
    name: str, validation_size: int, train_size: int | None
) -> None:
    images = list(range(DATASETS[name].train_images))
    held_back = images[len(images) - validation_size :] if validation_size > 0 else []
    possible = validation_size >= 0 and len(held_back) == validation_size < len(images)
    possible &= train_size is None or 1 <= train_size <= len(images) - validation_size
    if possible:
        assert check_sizes(name, validation_size, train_size) == len(images) - len(held_back)
    else:
        with pytest.raises(ConfigError, match=r"--(train|validation)-size must be .*; got -?\d+"):
            check_sizes(name, validation_size, train_size)


def test_messages_about_sizes() -> None:
    with pytest.raises(
        ConfigError, match=r"--validation-size must be ≥ 0 and < 60000, .*got 60000"
    ):
        check_sizes("mnist", 60_000, None)
    with pytest.raises(
        ConfigError, match=r"--train-size must be ≥ 1 and ≤ 1150, .*less 287.*got 0"
    ):
        check_sizes("digits", 287, 0)


def test_suggested_commands_name_what_is_not_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert options("kmnist", tmp_path) == " --dataset kmnist"
    elsewhere = tmp_path / "with space"
    assert shlex.split(options("mnist", elsewhere))[-2:] == ["--data-dir", str(elsewhere)]


def test_ways_out_are_one_line(tmp_path: Path) -> None:
    line = ways_out("mnist", tmp_path, "no answer")
    assert "\n" not in line
    assert "`mnist-tune data import DIR --dataset mnist" in line
    assert "`--dataset digits`" in line
