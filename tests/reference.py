"""Writes docs/commands.md from the help texts: ``python tests/reference.py``."""

from __future__ import annotations

from pathlib import Path

import click

from mnist_tune.cli import main

PATH = Path(__file__).resolve().parent.parent / "docs" / "commands.md"


def reference() -> str:
    """The help of every command, as Markdown."""
    parts = ["# Commands\n\nMade from the help texts by `python tests/reference.py`.\n"]
    for words, command in _commands(main, ("mnist-tune",)):
        context = click.Context(
            command,
            info_name=" ".join(words),
            terminal_width=88,
            max_content_width=88,
            help_option_names=["-h", "--help"],
        )
        parts.append(f"## {' '.join(words)}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def _commands(
    command: click.Command, words: tuple[str, ...]
) -> list[tuple[tuple[str, ...], click.Command]]:
    found = [(words, command)]
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            found += _commands(command.commands[name], (*words, name))
    return found


if __name__ == "__main__":
    PATH.write_text(reference())
