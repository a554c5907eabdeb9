"""``mnist-tune data``: get the data sets, also with no network, and see which are here."""

from __future__ import annotations

import click

from mnist_tune.cli.output import (
    Command,
    is_verbose,
    json_option,
    result,
    result_json,
    talk,
    verbose_option,
)

_ALL = "all"


def _data_dir_option(command: Command) -> Command:
    return click.option(
        "--data-dir",
        metavar="DIR",
        help="TFDS's data directory.  [default: TFDS_DATA_DIR, else ~/tensorflow_datasets]",
    )(command)


def _dataset_option(command: Command) -> Command:
    return click.option(
        "--dataset",
        default="mnist",
        show_default=True,
        metavar="NAME",
        help="mnist, fashion_mnist, kmnist or digits.",
    )(command)


@click.group()
def data() -> None:
    """Get the data sets, also with no network."""


@data.command()
@_dataset_option
@_data_dir_option
@verbose_option
def prepare(dataset: str, data_dir: str | None) -> None:
    """Download and convert a data set, or rebuild a damaged one.

    A search or training does this by itself when the data set is not here.
    """
    from mnist_tune.datasets import prepare_dataset

    prepare_dataset(dataset, data_dir, talk=talk, verbose=is_verbose())
    _print_info([dataset], data_dir, as_json=False)


@data.command("import")
@click.argument("directory", metavar="DIR")
@_dataset_option
@_data_dir_option
@verbose_option
def import_(directory: str, dataset: str, data_dir: str | None) -> None:
    """Take a data set's four IDX files from DIR, in place of the download.

    Their sizes and SHA-256 sums must be those that TensorFlow Datasets registers.
    """
    from mnist_tune.datasets import import_dataset

    import_dataset(dataset, directory, data_dir, talk=talk, verbose=is_verbose())
    _print_info([dataset], data_dir, as_json=False)


@data.command()
@click.option(
    "--dataset",
    default=_ALL,
    show_default=True,
    metavar="NAME",
    help="mnist, fashion_mnist, kmnist, digits or all.",
)
@_data_dir_option
@json_option
@verbose_option
def info(dataset: str, data_dir: str | None, as_json: bool) -> None:
    """Show which data sets are here, verified, and where."""
    from mnist_tune.datasets import DATASETS

    _print_info(list(DATASETS) if dataset == _ALL else [dataset], data_dir, as_json)


def _print_info(names: list[str], data_dir: str | None, as_json: bool) -> None:
    from dataclasses import asdict

    from mnist_tune.datasets import dataset_info

    infos = [dataset_info(name, data_dir) for name in names]
    if as_json:
        result_json({"datasets": [asdict(info) for info in infos]})
        return
    for info in infos:
        if info.state == "ready":
            result(
                f"{info.name}: ready, {info.train_images} training and {info.test_images} test "
                f"images, {info.size_bytes / 1e6:.1f} MB in {info.path}, checksum {info.checksum}"
            )
        else:
            result(f"{info.name}: {info.state}, {info.problem or f'to be prepared in {info.path}'}")
