"""`mnist-tune space` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mnist_tune.hparams import HPARAMS
from mnist_tune.space import draw, load_space

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

SPACE = """\
parameters:
  learning_rate: {distribution: loguniform, low: 1.0e-4, high: 1.0}
  weight_decay: 0.5
  features: {distribution: grid, values: [[8, 16], [32, 64]]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


def test_check_shows_what_is_searched_and_what_keeps_its_default(cli: Cli, file: Path) -> None:
    done = cli("space", "check", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["parameter", "distribution", "arguments"],
        ["learning_rate", "loguniform", "low=0.0001", "high=1"],
        ["weight_decay", "fixed", "value=0.5"],
        ["features", "grid", "values=[[8,16],[32,64]]"],
        ["beta", "default", "value=0.9"],
        ["schedule", "default", "value=constant"],
        ["warmup_epochs", "default", "value=0"],
        ["batch_size", "default", "value=128"],
        ["dense_units", "default", "value=256"],
        ["seed", "default", "the", "search's", "seed"],
        ["grid:", "2", "points"],
    ]


def test_check_json(cli: Cli, file: Path) -> None:
    done = cli("space", "check", "--json", file)
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert said["source"] == str(file)
    assert said["parameters"][0] == {
        "name": "learning_rate",
        "distribution": "loguniform",
        "arguments": {"low": 1e-4, "high": 1.0},
    }
    assert said["grid_size"] == 2
    names = {p["name"] for p in said["parameters"]} | set(said["defaults"])
    assert names == set(HPARAMS) - {"seed"}


def test_check_imports_nothing_heavy(file: Path) -> None:
    program = (
        "import sys\n"
        "from mnist_tune.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "space", "check", str(file)],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(done.stderr.split())
    assert "mnist_tune" in imported
    assert not imported & {"ray", "jax", "flax", "optax", "numpy", "tensorflow", "sklearn", "rich"}


@pytest.mark.slow
def test_sample_shows_what_varies(cli: Cli, file: Path) -> None:
    done = cli("space", "sample", file, "-n", "2", "--seed", "3")
    assert (done.returncode, done.stderr) == (0, "")
    expected = [
        f"learning_rate={c['learning_rate']:.6g} features=[{c['features'][0]},{c['features'][1]}]"
        for c in draw(load_space(file), 2, 3, "random")
    ]
    assert done.stdout.splitlines() == expected


@pytest.mark.slow
def test_sample_json_is_full_configs(cli: Cli, file: Path) -> None:
    done = cli("space", "sample", "--json", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == draw(load_space(file), 5, 0, "random")


def test_sample_of_fixed_values_shows_them(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "fixed.yaml"
    path.write_text("parameters: {beta: 0.5}")
    done = cli("space", "sample", path, "-n", "1", "--searcher", "grid")
    assert done.stdout == "beta=0.5\n"


@pytest.mark.parametrize("command", ["check", "sample"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("parameters: {betta: 1}", "1: unknown hyperparameter 'betta'; did you mean 'beta'?"),
        ("parameters: {", "1: must be YAML; "),
        ("", "1: must be a mapping with the key 'parameters'; got nothing"),
    ],
)
def test_a_wrong_file_is_one_message_and_exit_2(
    cli: Cli, tmp_path: Path, command: str, content: str, message: str
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(content)
    done = cli("space", command, path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: {path}:{message}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_no_file_is_one_message_and_exit_2(cli: Cli, tmp_path: Path, name: str) -> None:
    done = cli("space", "check", name, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: {name}: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "options",
    [("-n", "0"), ("-n", "x"), ("--seed", "-1"), ("--searcher", "bayes"), ("-n", "9999999")],
)
def test_wrong_options_are_exit_2(cli: Cli, file: Path, options: tuple[str, str]) -> None:
    done = cli("space", "sample", file, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_grid_search_of_a_range_is_exit_2(cli: Cli, file: Path) -> None:
    done = cli("space", "sample", file, "--searcher", "grid")
    assert done.returncode == 2
    assert "learning_rate: must be grid, choice or fixed for grid search" in done.stderr
