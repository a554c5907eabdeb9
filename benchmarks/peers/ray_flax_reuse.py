"""Ray Tune + Flax: a class whose process goes on with the next trial, compiled steps and all."""

from __future__ import annotations

from typing import Any

import numpy as np
from ray import tune

from benchmarks.peers import flax_cnn
from benchmarks.peers.ray_search import search
from benchmarks.peers.task import Splits, load, read_task


class Training(tune.Trainable):  # type: ignore[misc]
    """Trains one configuration after another, an epoch a step."""

    def setup(self, config: dict[str, Any], data: Splits) -> None:
        """Takes the data and begins the first trial."""
        self._data = data
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begins another trial."""
        self._state, self._rng = flax_cnn.start(new_config), np.random.default_rng(0)
        return True

    def step(self) -> dict[str, Any]:
        """Trains an epoch."""
        self._state = flax_cnn.train_epoch(self._state, self._data.train, self._rng)
        return {"accuracy": flax_cnn.accuracy(self._state, self._data.validation)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Writes the parameters."""
        flax_cnn.save(self._state, checkpoint_dir)


def main() -> None:
    """Runs the search."""
    task = read_task()
    data = load(task)
    search(
        task,
        tune.with_parameters(Training, data=data),
        lambda path, config: flax_cnn.accuracy(flax_cnn.restored(path, config), data.test),
        reuse=True,
        checkpoint_every_epoch=True,
    )


if __name__ == "__main__":
    main()
