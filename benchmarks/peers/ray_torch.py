"""Ray Tune + PyTorch: a class whose process goes on with the next trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ray import tune

from benchmarks.peers import torch_cnn
from benchmarks.peers.ray_search import search
from benchmarks.peers.task import Config, Splits, load, read_task


class Training(tune.Trainable):  # type: ignore[misc]
    """Trains one configuration after another, an epoch a step."""

    def setup(self, config: dict[str, Any], data: Splits) -> None:
        """Takes the data and begins the first trial."""
        self._train = torch_cnn.tensors(data.train)
        self._validation = torch_cnn.tensors(data.validation)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begins another trial."""
        self._state = torch_cnn.start(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Trains an epoch."""
        torch_cnn.train_epoch(self._state, self._train)
        return {"accuracy": torch_cnn.accuracy(self._state.model, self._validation)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Writes the parameters."""
        torch.save(self._state.model.state_dict(), Path(checkpoint_dir) / "model.pt")


def main() -> None:
    """Runs the search."""
    task = read_task()
    data = load(task)

    def score(path: str, config: Config) -> float:
        model = torch_cnn.start(config).model
        model.load_state_dict(torch.load(Path(path) / "model.pt"))
        return torch_cnn.accuracy(model, torch_cnn.tensors(data.test))

    trainable = tune.with_parameters(Training, data=data)
    search(task, trainable, score, reuse=True, checkpoint_every_epoch=True)


if __name__ == "__main__":
    main()
