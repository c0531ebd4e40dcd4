"""The worker of pfl-research 0.6.0 with PyTorch on CPU; several processes by
torch.distributed.run.

Clients of pfl-research do not shuffle their examples.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from typing import Any

from experiments.benchmarks import bench
from experiments.benchmarks.throughput_workers import work

OPTIONS = work.arguments()
if OPTIONS.processes > 1 and "RANK" not in os.environ:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nnodes=1"]
    number = f"--nproc_per_node={OPTIONS.processes}"
    os.execv(sys.executable, [sys.executable, *launcher, number, *sys.argv])

os.environ["OMP_NUM_THREADS"] = str(OPTIONS.threads)
import torch  # noqa: E402

torch.set_num_threads(OPTIONS.threads)
# pfl reads a name that torch has dropped since.
torch.distributed.reduce_op = torch.distributed.ReduceOp

from pfl.aggregate.simulate import SimulatedBackend  # noqa: E402
from pfl.aggregate.weighting import WeightByDatapoints  # noqa: E402
from pfl.algorithm.base import NNAlgorithmParams  # noqa: E402
from pfl.algorithm.federated_averaging import FederatedAveraging  # noqa: E402
from pfl.callback.base import TrainingProcessCallback  # noqa: E402
from pfl.data.dataset import Dataset  # noqa: E402
from pfl.data.federated_dataset import FederatedDataset  # noqa: E402
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams  # noqa: E402
from pfl.internal.ops import pytorch_ops  # noqa: E402
from pfl.metrics import Metrics, Weighted  # noqa: E402
from pfl.model.pytorch import PyTorchModel  # noqa: E402

from experiments.benchmarks.throughput_workers import torch_models  # noqa: E402


class Model(torch.nn.Module):
    """A network with the two methods that pfl requires."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def loss(self, x: torch.Tensor, y: torch.Tensor, eval: bool = False) -> Any:
        self.train(not eval)
        return torch.nn.functional.cross_entropy(self.network(x), y)

    @torch.no_grad()
    def metrics(self, x: torch.Tensor, y: torch.Tensor, eval: bool = True) -> Any:
        right = (self.network(x).argmax(1) == y).sum().item()
        return {"accuracy": Weighted(right, len(y))}


class Clock(TrainingProcessCallback):
    """A callback that ends a lap of the meter with every round."""

    def __init__(self, meter: bench.Meter) -> None:
        self._meter = meter

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        self._meter.lap()
        return False, Metrics()


def main() -> None:
    ranks = pytorch_ops.distributed
    assert ranks.world_size == OPTIONS.processes, ranks.world_size
    made = work.make_data(OPTIONS)
    users = [
        Dataset(raw_data=torch_models.tensors(x, y), user_id=str(i))
        for i, (x, y) in enumerate(made.of_clients())
    ]
    drawn = iter(int(i) for cohort in work.cohorts(OPTIONS) for i in cohort)
    clients = FederatedDataset(
        lambda i: users[i],
        # pfl draws one round ahead.
        lambda: next(drawn, 0),
        user_id_to_weight=dict(enumerate(made.sizes.tolist())),
    )
    torch.manual_seed(0)
    network = torch_models.make(OPTIONS.model)
    model = Model(network)
    # The launcher, whose children are the ranks.
    root = os.getppid() if OPTIONS.processes > 1 else os.getpid()
    meter = bench.Meter(root, OPTIONS.warm_up)
    meter.start()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=OPTIONS.warm_up + OPTIONS.rounds,
            # Only before the first round, which is not counted.
            evaluation_frequency=10**9,
            train_cohort_size=OPTIONS.clients_per_round,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(clients, clients, [WeightByDatapoints()]),
        model=PyTorchModel(
            model, torch.optim.SGD, torch.optim.SGD(model.parameters(), 1.0)
        ),
        model_train_params=NNTrainHyperParams(
            local_learning_rate=work.LEARNING_RATE,
            local_num_epochs=1,
            local_batch_size=work.BATCH_SIZE,
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=1000),
        callbacks=[Clock(meter)],
    )
    if ranks.global_rank == 0:
        test = torch_models.tensors(made.test_x, made.test_y)
        work.report(
            OPTIONS,
            meter,
            "pfl-research",
            importlib.metadata.version("pfl"),
            torch_models.num_parameters(network),
            torch_models.accuracy(network, *test),
        )
    if OPTIONS.processes > 1:
        torch.distributed.barrier()
        # Else the process that sorts its cohorts would outlive this one.
        clients._sample_fn.__del__()
        os._exit(0)


if __name__ == "__main__":
    main()
