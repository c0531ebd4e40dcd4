"""The worker of FedJAX 0.0.17 with its "jit" backend, a Python loop over clients and
batches.

FedJAX fills up its last local batch with examples of the next epoch.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import bench
from experiments.benchmarks.throughput_workers import work

# FedJAX reads three names that jax has dropped since; it calls only the first.
jax.tree_map = jax.tree.map
jax.device_put_replicated = jax.device_put_sharded = None

import fedjax  # noqa: E402
import haiku as hk  # noqa: E402
from fedjax.models import emnist  # noqa: E402


def cnn() -> Any:
    """McMahan's CNN in haiku, written like FedJAX's own models."""

    def forward(batch: dict[str, Any]) -> Any:
        x = batch["x"]
        for channels in (32, 64):
            x = jax.nn.relu(hk.Conv2D(channels, 5, padding="SAME")(x))
            x = hk.MaxPool((1, 2, 2, 1), (1, 2, 2, 1), "VALID")(x)
        return hk.Linear(10)(jax.nn.relu(hk.Linear(512)(hk.Flatten()(x))))

    return fedjax.create_model_from_haiku(
        hk.transform(forward),
        {"x": np.zeros((1, 28, 28, 1), np.float32), "y": np.zeros(1, np.int32)},
        lambda batch, logits: fedjax.metrics.unreduced_cross_entropy_loss(
            batch["y"], logits
        ),
        {"accuracy": fedjax.metrics.Accuracy()},
    )


def main() -> None:
    options = work.arguments()
    made = work.make_data(options)
    two_nn = emnist.create_dense_model
    model = cnn() if options.model == "cnn" else two_nn(True, hidden_units=200)
    clients = fedjax.InMemoryFederatedData(
        {i: {"x": x, "y": y} for i, (x, y) in enumerate(made.of_clients())}
    )
    with fedjax.for_each_client_backend("jit"):
        algorithm = fedjax.algorithms.fed_avg.federated_averaging(
            fedjax.model_grad(model),
            fedjax.optimizers.sgd(work.LEARNING_RATE),
            fedjax.optimizers.sgd(1.0),
            fedjax.ShuffleRepeatBatchHParams(work.BATCH_SIZE, num_epochs=1, seed=0),
        )
        state = algorithm.init(model.init(jax.random.PRNGKey(0)))
        meter = bench.Meter()
        meter.start()
        for number, cohort in enumerate(work.cohorts(options)):
            keys = jax.random.split(jax.random.PRNGKey(number), len(cohort))
            taken = clients.get_clients(cohort.tolist())
            state, _ = algorithm.apply(
                state, [(*client, key) for client, key in zip(taken, keys, strict=True)]
            )
            jax.block_until_ready(state.params)
            meter.lap()
    test = fedjax.ClientDataset({"x": made.test_x, "y": made.test_y})
    metrics = fedjax.evaluate_model(
        model, state.params, test.padded_batch(batch_size=200)
    )
    work.report(
        options,
        meter,
        "FedJAX",
        importlib.metadata.version("fedjax"),
        sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        float(metrics["accuracy"]),
        compiles_in_first_round=True,
    )


if __name__ == "__main__":
    main()
