"""``python -m mnist_tune``."""

from mnist_tune.cli import main

main(prog_name="mnist-tune")
