"""The two models in PyTorch, for the systems that train with it."""

import numpy as np
import torch
from torch import nn


def make(name: str) -> nn.Sequential:
    """The model "2nn" or "cnn", with weights drawn as in FedJAX."""
    if name == "2nn":
        layers = [nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU()]
        network = nn.Sequential(nn.Flatten(), *layers, nn.Linear(200, 10))
    else:
        layers = []
        for inputs, channels in ((1, 32), (32, 64)):
            convolution = nn.Conv2d(inputs, channels, 5, padding=2)
            layers += [convolution, nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10)]
        network = nn.Sequential(*layers)
    for layer in network:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            stddev = layer.weight[0].numel() ** -0.5
            nn.init.trunc_normal_(layer.weight, std=stddev, a=-2 * stddev, b=2 * stddev)
            nn.init.zeros_(layer.bias)
    return network


def num_parameters(network: nn.Module) -> int:
    """The number of parameters, which must be `work.PARAMETERS`."""
    return sum(parameter.numel() for parameter in network.parameters())


def tensors(x: np.ndarray, y: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels as tensors; one channel, so that moving its axis copies
    nothing.
    """
    return torch.from_numpy(x.reshape(-1, 1, 28, 28)), torch.from_numpy(y).long()


@torch.no_grad()
def accuracy(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """The share of correct predictions, in [0, 1]."""
    return (network(x).argmax(1) == y).float().mean().item()
