"""The worker of Opacus 1.6.0 in its modes, and of PyTorch's step without privacy."""

from __future__ import annotations

import copy
import importlib.metadata
import os
from typing import Any

import opacus  # pyrefly: ignore[missing-import]
import torch  # pyrefly: ignore[missing-import]
from torch import nn  # pyrefly: ignore[missing-import]

from experiments.benchmarks.dp_sgd_speed_workers import work


def network_of(model: str) -> Any:
    """The same three models with PyTorch's convolutions and pools."""
    wide = [nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU()]
    layers = {
        "mlp": [nn.Flatten(), *wide, nn.Linear(200, 10)],
        "mnist_cnn": [
            *(nn.Conv2d(1, 16, 8, 2, padding=3), nn.ReLU(), nn.MaxPool2d(2, 1)),
            *(nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.MaxPool2d(2, 1)),
            *(nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10)),
        ],
        "cnn": [
            *(nn.Conv2d(1, 32, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(32, 64, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10)),
        ],
    }
    return nn.Sequential(*layers[model])


def clipped_sum(network: Any, x: Any, y: Any) -> list[Any]:
    """The sum of clipped gradients, one example after the other."""
    params = list(network.parameters())
    total = [torch.zeros_like(param) for param in params]
    for i in range(len(x)):
        loss = nn.functional.cross_entropy(network(x[i : i + 1]), y[i : i + 1])
        grads = torch.autograd.grad(loss, params)
        norm = torch.cat([grad.flatten() for grad in grads]).norm()
        factor = min(1.0, work.CLIP_NORM / norm.item())
        for sum_, grad in zip(total, grads, strict=True):
            sum_ += factor * grad
    return total


def main() -> None:
    options = work.arguments(["no_privacy", "hooks", "functorch", "ghost", "ew"])
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(options.seed)
    # There is one channel, so that moving its axis to PyTorch's place copies nothing.
    data = [
        (torch.from_numpy(x.reshape(-1, 1, 28, 28)), torch.from_numpy(y).long())
        for x, y in work.batches(options.seed)
    ]
    network = network_of(options.model)
    plain = copy.deepcopy(network)
    criterion: Any = nn.CrossEntropyLoss()
    optimizer: Any = torch.optim.SGD(network.parameters(), lr=work.LEARNING_RATE)
    private = options.method != "no_privacy"
    if private:
        examples = torch.utils.data.TensorDataset(
            *(torch.cat(parts) for parts in zip(*data, strict=True))
        )
        network, optimizer, *others = opacus.PrivacyEngine(
            accountant="rdp"
        ).make_private(
            module=network,
            optimizer=optimizer,
            criterion=criterion,
            data_loader=torch.utils.data.DataLoader(examples, work.BATCH_SIZE),
            noise_multiplier=0.0,  # Until the clipped sum was checked.
            max_grad_norm=work.CLIP_NORM,
            poisson_sampling=False,
            grad_sample_mode=options.method,
        )
        criterion = others[0] if options.method == "ghost" else criterion

    def step(number: int) -> None:
        x, y = data[number]
        optimizer.zero_grad(set_to_none=True)
        criterion(network(x), y).backward()
        optimizer.step()

    if private:
        step(0)
        moves = zip(plain.parameters(), network.parameters(), strict=True)
        unit = work.LEARNING_RATE / work.BATCH_SIZE
        found = [((before - after) / unit).detach() for before, after in moves]
        work.check_clipped_sum(found, clipped_sum(plain, *data[0]))
        optimizer.noise_multiplier = work.NOISE_MULTIPLIER
    work.report(
        options,
        step,
        finish=lambda: None,  # Its steps are done when they return.
        system="Opacus" if private else "PyTorch",
        version=importlib.metadata.version("opacus" if private else "torch"),
        parameters=sum(parameter.numel() for parameter in plain.parameters()),
    )
    assert all(torch.isfinite(p).all() for p in network.parameters())


if __name__ == "__main__":
    main()
