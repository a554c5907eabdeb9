"""``mnist-tune space``: check a search space file, draw configs from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mnist_tune.cli.output import json_option, result, result_json, verbose_option

if TYPE_CHECKING:
    from mnist_tune.space import Searcher


@click.group()
def space() -> None:
    """Validate a search space, draw from it."""


@space.command()
@click.argument("file")
@json_option
@verbose_option
def check(file: str, as_json: bool) -> None:
    """Check the search space FILE and show what it searches."""
    from mnist_tune.hparams import HPARAMS, complete
    from mnist_tune.space import grid_size, load_space

    loaded = load_space(file)
    points = grid_size(loaded, "random")
    searched = {p.name for p in loaded.parameters}
    defaults = {name: value for name, value in complete({}).items() if name not in searched}
    # A space without a seed gets the search's, not the default.
    defaults.pop("seed", None)
    if as_json:
        parameters = [
            {"name": p.name, "distribution": p.distribution, "arguments": dict(p.arguments)}
            for p in loaded.parameters
        ]
        result_json(
            {
                "source": loaded.source,
                "parameters": parameters,
                "defaults": defaults,
                "grid_size": points,
            }
        )
        return
    rows = [
        (p.name, p.distribution, " ".join(f"{k}={_text(v)}" for k, v in p.arguments.items()))
        for p in loaded.parameters
    ]
    rows += [(name, "default", f"value={_text(value)}") for name, value in defaults.items()]
    if "seed" not in searched:
        rows.append(("seed", "default", "the search's seed"))
    width = max(map(len, HPARAMS))
    for name, distribution, arguments in [("parameter", "distribution", "arguments"), *rows]:
        result(f"{name:<{width}}  {distribution:<12}  {arguments}")
    if points > 1:
        result(f"grid: {points} points")


@space.command()
@click.argument("file")
@click.option(
    "-n", "--num-samples", type=click.IntRange(min=1), default=5, show_default=True,
    help="How many times to draw; with a grid, how many times to go through it.",
)  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True,
    help="Seed of the draws.",
)  # fmt: skip
@click.option(
    "--searcher", type=click.Choice(["random", "grid"]), default="random", show_default=True,
    help="grid takes every value of every choice.",
)  # fmt: skip
@json_option
@verbose_option
def sample(file: str, num_samples: int, seed: int, searcher: Searcher, as_json: bool) -> None:
    """Draw configs from the search space FILE, as a search with the same options would."""
    from mnist_tune.space import draw, load_space

    loaded = load_space(file)
    configs = draw(loaded, num_samples, seed, searcher)
    if as_json:
        result_json(configs)
        return
    varied = [p.name for p in loaded.parameters if p.distribution != "fixed"]
    names = varied or [p.name for p in loaded.parameters]
    for config in configs:
        result(" ".join(f"{name}={_text(config[name])}" for name in names))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    return str(value)
