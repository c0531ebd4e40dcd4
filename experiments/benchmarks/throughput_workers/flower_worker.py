"""The worker of Flower 1.42.0 on Ray: `--processes` actors of one thread, PyTorch.

The strategy draws cohorts uniformly. Ray imports this file in its actors.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = str(Path(__file__).parent)
os.environ.update(
    OMP_NUM_THREADS="1",
    FLWR_TELEMETRY_ENABLED="0",
    RAY_USAGE_STATS_ENABLED="0",
    PYTHONPATH=os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")]),
)

import torch  # noqa: E402
from flwr.app import (  # noqa: E402
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402
from flwr.serverapp.strategy import FedAvg  # noqa: E402
from flwr.simulation import run_simulation  # noqa: E402

from experiments.benchmarks import bench  # noqa: E402
from experiments.benchmarks.throughput_workers import torch_models, work  # noqa: E402

client_app = ClientApp()
network_of = functools.cache(torch_models.make)


@functools.cache
def clients_data(*command: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The data of all clients as tensors, made once in every actor."""
    made = work.make_data(work.arguments(command))
    return [torch_models.tensors(x, y) for x, y in made.of_clients()]


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """One epoch of SGD on the client's examples, in random order."""
    torch.set_num_threads(1)
    command = str(message.content["config"]["command"]).split()
    x, y = clients_data(*command)[int(context.node_config["partition-id"])]
    network = network_of(work.arguments(command).model)
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(network.parameters(), work.LEARNING_RATE)
    for rows in torch.randperm(len(x)).split(work.BATCH_SIZE):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
        optimizer.step()
    trained = {
        "arrays": ArrayRecord(network.state_dict()),
        "metrics": MetricRecord({"num-examples": len(x)}),
    }
    return Message(content=RecordDict(trained), reply_to=message)


class Timed(FedAvg):
    """Federated averaging that ends a lap of the meter with every round."""

    def __init__(self, meter: bench.Meter, cohort: int, **options: Any) -> None:
        super().__init__(**options)
        self._meter, self._cohort = meter, cohort

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        replies = list(replies)
        assert sum(not reply.has_error() for reply in replies) == self._cohort
        aggregated = super().aggregate_train(server_round, replies)
        self._meter.lap()
        return aggregated


def main() -> None:
    options = work.arguments()
    meter = bench.Meter(os.getpid(), options.warm_up)
    torch.manual_seed(0)
    network = torch_models.make(options.model)
    server_app = ServerApp()

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        strategy = Timed(
            meter,
            options.clients_per_round,
            fraction_train=options.clients_per_round / options.num_clients,
            fraction_evaluate=0.0,
            min_train_nodes=options.clients_per_round,
            min_available_nodes=options.num_clients,
        )
        meter.start()
        result = strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(network.state_dict()),
            num_rounds=options.warm_up + options.rounds,
            train_config=ConfigRecord({"command": " ".join(sys.argv[1:])}),
        )
        network.load_state_dict(result.arrays.to_torch_state_dict())

    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=options.num_clients,
        backend_name="ray",
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": options.processes, "include_dashboard": False},
        },
    )
    made = work.make_data(options)
    test = torch_models.tensors(made.test_x, made.test_y)
    work.report(
        options,
        meter,
        "Flower",
        importlib.metadata.version("flwr"),
        torch_models.num_parameters(network),
        torch_models.accuracy(network, *test),
    )
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    # Imported by name, so that Ray's actors import it and keep their data.
    import flower_worker

    flower_worker.main()
