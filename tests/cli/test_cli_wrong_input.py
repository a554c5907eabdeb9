"""What a user can get wrong: exit code 2, one clear message, no traceback, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

SPACES = {
    "bad_yaml": "parameters: {learning_rate: [1, 2",
    "not_a_mapping": "- 1\n- 2\n",
    "empty": "",
    "no_parameters": "parameters: {}\n",
    "unknown_name": "parameters:\n  learning_rat: 0.1\n",
    "unknown_distribution": "parameters:\n  beta: {distribution: unifrom, low: 0.0, high: 0.9}\n",
    "low_above_high": "parameters:\n  beta: {distribution: uniform, low: 0.9, high: 0.1}\n",
    "log_of_zero": "parameters:\n  learning_rate: {distribution: loguniform, low: 0, high: 1}\n",
    "out_of_bounds": "parameters:\n  beta: {distribution: uniform, low: 0.0, high: 1.5}\n",
    "wrong_type": "parameters:\n  batch_size: {distribution: uniform, low: 1.5, high: 8.5}\n",
    "not_utf8": b"\xff\xfe\x00\xd8",
    "good": "parameters:\n  learning_rate: {distribution: loguniform, low: 0.001, high: 0.5}\n",
}

BESTS = {
    "not_yaml": "{",
    "other_yaml": "a: 1\n",
    "text": "just text",
    "text_for_epoch": (
        "config: {}\nvalidation: {accuracy: 1, loss: 1, epoch: three}\n"
        "provenance: {max_epochs: 3, data: {name: digits, checksum: x, train_size: 1, "
        "validation_size: 1}, device: {platform: cpu, kind: x, threads: 1}}\n"
    ),
    "unknown_hyperparameter": "config: {momentum: 0.9}\nvalidation: {epoch: 1}\nprovenance: {}\n",
}

SEARCH = ("search", "--dataset", "digits")

CASES = [
    *(
        (f"space {name}", (*SEARCH, "--space", f"{name}.yaml"), message)
        for name, message in {
            "bad_yaml": "bad_yaml.yaml:",
            "not_a_mapping": "must",
            "empty": "empty.yaml",
            "no_parameters": "parameters",
            "unknown_name": "did you mean 'learning_rate'",
            "unknown_distribution": "did you mean 'uniform'",
            "low_above_high": "low",
            "log_of_zero": "low",
            "out_of_bounds": "< 1",
            "wrong_type": "batch_size",
            "not_utf8": "UTF-8",
            "missing": "missing.yaml",
        }.items()
    ),
    ("space is a directory", (*SEARCH, "--space", "."), "directory"),
    *(
        (f"option {flag} {value}", (*SEARCH, "--space", "good.yaml", flag, value), flag)
        for flag, value in {
            "--max-epochs": "-3",
            "--num-samples": "0",
            "--num-samples ": "many",
            "--reduction-factor": "1",
            "--grace-period": "99",
            "--scheduler": "hyperband",
            "--searcher": "gird",
            "--metric": "f1",
            "--seed": "-1",
            "--cpus-per-trial": "0",
            "--cpus-per-trial ": "4096",
            "--gpus-per-trial": "nan",
            "--max-failures": "-1",
            "--time-budget": "0",
            "--validation-size": "1437",
            "--train-size": "100000",
            "--name": "../escape",
            "--storage-path": "good.yaml/below",
        }.items()
    ),
    ("data set", ("search", "--space", "good.yaml", "--dataset", "mnits"), "did you mean 'mnist'"),
    ("existing run", (*SEARCH, "--space", "good.yaml", "--name", "taken"), "exists already"),
    (
        "grid of a range",
        (*SEARCH, "--space", "good.yaml", "--searcher", "grid"),
        "must be grid, choice or fixed",
    ),
    ("no space", SEARCH, "--space"),
    ("unknown option", (*SEARCH, "--space", "good.yaml", "--lr", "1"), "--lr"),
    ("unknown command", ("serach",), "serach"),
    ("train beta", ("train", "--dataset", "digits", "--beta", "1.0"), "beta must be"),
    ("train epochs", ("train", "--dataset", "digits", "--epochs", "0"), "epochs must be"),
    ("train features", ("train", "--dataset", "digits", "--features", "a,b"), "features must be"),
    ("train both", ("train", "--config", "x.yaml", "--seed", "1"), "--seed"),
    *(
        (f"best {name}", ("train", "--config", f"{name}.best"), f"{name}.best")
        for name in [*BESTS, "missing"]
    ),
    ("resume nothing", ("resume", "nothing"), "nothing: no run directory"),
    ("show a directory", ("show", "."), "no run directory"),
    ("best of nothing", ("best", "nothing"), "no run directory"),
    ("evaluate text", ("evaluate", "good.yaml"), "not a checkpoint"),
    ("data import", ("data", "import", "nowhere"), "nowhere"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_wrong_input(
    cli, tmp_path: Path, digits_data_dir: Path, arguments: tuple[str, ...], message: str
) -> None:
    for name, text in SPACES.items():
        content = text if isinstance(text, bytes) else text.encode()
        (tmp_path / f"{name}.yaml").write_bytes(content)
    for name, best in BESTS.items():
        (tmp_path / f"{name}.best").write_text(best)
    storage = tmp_path / "mnist-tune-runs"
    (storage / "taken").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    environment = {"HOME": str(tmp_path), "TFDS_DATA_DIR": str(digits_data_dir)}

    done = cli(*(a.strip() for a in arguments), cwd=tmp_path, env=environment)

    assert done.returncode == (1 if "checkpoint" in message else 2), done.stderr
    assert message.strip() in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before
