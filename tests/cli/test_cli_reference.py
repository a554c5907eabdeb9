"""The documents say what the program does."""

from __future__ import annotations

import re
import shlex

import click
from conftest import ROOT
from reference import PATH, reference

from mnist_tune.cli import main


def test_command_reference_is_current() -> None:
    assert PATH.read_text() == reference(), "run: python tests/reference.py"


def test_readme_names_only_commands_and_options_that_exist() -> None:
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    lines = re.findall(r"^(?:\S*/)?mnist-tune ([^#\n]*)", text, re.MULTILINE)
    assert len(lines) > 10
    for line in lines:
        words = shlex.split(line)
        command: click.Command = main
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        known = {flag for param in command.params for flag in param.opts} | {"--help", "--version"}
        used = {word.split("=")[0] for word in words if word.startswith("--")}
        assert used <= known, f"{line}: {used - known}"
