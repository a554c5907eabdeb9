"""The CNN and its training as a PyTorch user writes them for one CPU core: channels-last."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.peers.task import Arrays, Config

BATCH_SIZE = 128
EVALUATION_BATCH_SIZE = 128
"""With 256 and more an evaluation takes up to three times as long: memory is mapped each time."""


class Tensors(NamedTuple):
    """Pixels ``[n, 1, 28, 28]``, channels last in memory, and labels ``[n]``."""

    images: Tensor
    labels: Tensor


class State(NamedTuple):
    """The network and its optimizer."""

    model: nn.Module
    optimizer: torch.optim.Optimizer


def tensors(data: Arrays) -> Tensors:
    """A split as tensors; images ``[n, 28, 28, 1]`` are channels-last as they are."""
    labels = torch.from_numpy(data.labels).long()
    return Tensors(torch.from_numpy(data.images).permute(0, 3, 1, 2), labels)


def start(config: Config, seed: int = 0) -> State:
    """The network with LeCun normal weights and zero biases, as Flax's, and its optimizer."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(7 * 7 * 64, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            sd = 1 / math.sqrt(layer.weight[0].numel()) / 0.8796  # of a normal cut at ±2
            nn.init.trunc_normal_(layer.weight, std=sd, a=-2 * sd, b=2 * sd)
            nn.init.zeros_(layer.bias)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=config["learning_rate"], momentum=config["beta"]
    )
    return State(model, optimizer)


def train_epoch(state: State, data: Tensors) -> None:
    """One pass over the data in a random order."""
    state.model.train()
    for rows in torch.randperm(len(data.labels)).split(BATCH_SIZE):
        state.optimizer.zero_grad()
        logits = state.model(data.images[rows])
        nn.functional.cross_entropy(logits, data.labels[rows]).backward()
        state.optimizer.step()


def accuracy(model: nn.Module, data: Tensors) -> float:
    """The fraction of the data that is classified right."""
    model.eval()
    right = 0
    batches = (part.split(EVALUATION_BATCH_SIZE) for part in data)
    with torch.inference_mode():
        for images, labels in zip(*batches, strict=True):
            right += int((model(images).argmax(1) == labels).sum())
    return right / len(data.labels)
