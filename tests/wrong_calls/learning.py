"""Good calls of data, models and federated."""

import jax
import jax.numpy as jnp
import numpy as np

from ppml_lab import data, federated, models

from . import parts
from .values import ANY, FLOATS, SEED, ZERO, good

DATA = {
    "federate": good(
        data.federate,
        examples=parts.ROWS,
        user_ids=parts.OWNERS,
        num_clients=3,
        sharding=None,
    ),
    "client_sizes": good(data.client_sizes, clients=parts.CLIENTS),
    "num_clients": good(data.num_clients, clients=parts.CLIENTS),
    "view": good(data.view, {"i": ("0",)}, clients=parts.CLIENTS, i=1),
    "digests": good(data.digests, examples=parts.ROWS, owners=parts.OWNERS),
    "generated": good(
        data.generated,
        {"sizes": ("[1]",)},
        make=lambda i: parts.ROWS,
        sizes=np.array([2, 3]),
    ),
    "shard": good(
        data.shard,
        clients=parts.CLIENTS,
        sharding=federated.sharded_by_client(parts.MESH),
    ),
    "load": good(data.load, name="digits"),
    "make_dataset": good(
        data.make_dataset,
        {"name": ("''", "'1'"), "train_users": ("None",), "test_users": ("None",)},
        name="own",
        train=(parts.ROWS["x"], parts.ROWS["y"]),
        test=(parts.ROWS["x"], parts.ROWS["y"]),
        num_classes=2,
        train_users=parts.OWNERS,
        test_users=None,
        feature_names=["a", "b"],
    ),
    "synthetic": good(
        data.synthetic,
        SEED | {"alpha": ("0",), "beta": ("0",), "size_sigma": ("0",)},
        seed=0,
        num_clients=3,
        alpha=1.0,
        beta=1.0,
        mean_size=60.0,
        min_size=50,
        size_sigma=0.5,
    ),
    "partition.iid": good(
        data.partition.iid, rng=np.random.default_rng(0), num_examples=6, num_clients=3
    ),
    "partition.dirichlet": good(
        data.partition.dirichlet,
        {"labels": FLOATS},
        rng=np.random.default_rng(0),
        labels=parts.ROWS["y"],
        num_clients=1,
        alpha=1.0,
    ),
    "partition.shards": good(
        data.partition.shards,
        {"labels": FLOATS},
        rng=np.random.default_rng(0),
        labels=parts.ROWS["y"],
        num_clients=1,
        shards_per_client=1,
    ),
    "partition.label_limited": good(
        data.partition.label_limited,
        {"labels": FLOATS},
        rng=np.random.default_rng(0),
        labels=parts.ROWS["y"],
        num_clients=2,
        labels_per_client=1,
    ),
    "partition.quantity_skew": good(
        data.partition.quantity_skew,
        {"sigma": ("0",)},
        rng=np.random.default_rng(0),
        num_examples=6,
        num_clients=3,
        sigma=1.0,
    ),
    "partition.natural": good(
        data.partition.natural, {"user_ids": FLOATS}, user_ids=parts.OWNERS
    ),
}
MODELS = {
    "classification": good(
        models.classification,
        init=lambda key: {"w": jnp.zeros((2, 3))},
        apply=lambda params, x: x @ params["w"],
        roles=None,
    ),
    "flax_classification": good(
        models.flax_classification,
        {"input_shape": ("[1]",)},
        module=models.logistic(3),
        input_shape=(2,),
        roles=None,
    ),
    "logistic": good(models.logistic, num_classes=3),
    "two_nn": good(models.two_nn, num_classes=3),
    "CNN": good(models.CNN, num_classes=3),
    "LeNet": good(models.LeNet, num_classes=3),
    "TutorialCNN": good(models.TutorialCNN, num_classes=3),
    "MLP": good(models.MLP, {"features": ("[1]",)}, features=[3]),
}
FEDERATED = {
    "averaging": good(
        federated.averaging,
        {"dropout_prob": ("0", "1e-50"), "live_delta": ("1e-50",)},
        task=parts.TASK,
        trainer=parts.TRAINER,
        sampler=parts.SAMPLER,
        server=None,
        mechanism=None,
        aggregator=None,
        weighting="uniform",
        dropout_prob=0.5,
        live_delta=None,
        num_lanes=2,
        mesh=None,
    ),
    "central_sgd": good(
        federated.central_sgd,
        {"live_delta": ("1e-50",), "method": ("a function",)},
        task=parts.TASK,
        optimizer=parts.SGD,
        sampler=parts.SAMPLER,
        mechanism=None,
        steps_per_round=1,
        method="auto",
        microbatch_size=2,
        live_delta=None,
        mesh=None,
    ),
    "client_evaluator": good(
        federated.client_evaluator, task=parts.TASK, batch_size=2, mesh=None
    ),
    "evaluator": good(federated.evaluator, task=parts.TASK, batch_size=2, mesh=None),
    "client_mesh": good(federated.client_mesh, num_devices=1),
    "client_spread": good(
        federated.client_spread,
        {
            "higher_is_better": ("()", "{}"),
            "lower_is_better": ("()", "{}"),
            "metrics": ("{}",),
        },
        metrics={"loss": jnp.zeros(3)},
        clients=parts.CLIENTS,
        higher_is_better=(),
        lower_is_better=(),
    ),
    "everyone": good(federated.everyone, population=3),
    "fedopt": good(federated.fedopt, optimizer=parts.SGD),
    "fixed_size": good(federated.fixed_size, population=5, cohort_size=2, max_cohort=3),
    "poisson": good(
        federated.poisson, population=5, sampling_prob=0.5, mesh=None, overflow_prob=0.1
    ),
    "local_sgd": good(
        federated.local_sgd,
        {"optimizer": ("a function",)},
        task=parts.TASK,
        optimizer=parts.SGD,
        batch_size=2,
        num_epochs=None,
        num_steps=1,
    ),
    "proximal_sgd": good(
        federated.proximal_sgd,
        {"optimizer": ("a function",), "mu": ("0",)},
        task=parts.TASK,
        optimizer=parts.SGD,
        batch_size=2,
        mu=0.5,
        num_epochs=None,
        num_steps=1,
    ),
    "scaffold": good(
        federated.scaffold,
        {"optimizer": ("a function",)},
        task=parts.TASK,
        optimizer=parts.SGD,
        batch_size=2,
        num_epochs=None,
        num_steps=1,
        server_optimizer=None,
    ),
    "local_dp_sgd": good(
        federated.local_dp_sgd,
        {"optimizer": ("a function",)},
        task=parts.TASK,
        optimizer=parts.SGD,
        mechanism=parts.EXAMPLES,
        sampling_prob=0.5,
        num_steps=1,
        max_client_size=3,
        method="auto",
    ),
    "on_every_device": good(federated.on_every_device, mesh=parts.MESH),
    "sharded_by_client": good(federated.sharded_by_client, mesh=parts.MESH),
    "simulate": good(
        federated.simulate,
        {"test": ("two floats", "2-d")},
        False,
        key=parts.KEY,
        algorithm=parts.ALGORITHM,
        clients=parts.CLIENTS,
        num_rounds=2,
        test=parts.ROWS,
        evaluate=federated.evaluator(parts.TASK),
        eval_every=1,
        on_chunk=None,
    ),
    "training_on_shares": good(
        federated.training_on_shares,
        ZERO | {"batch_size": ("None",), "dimension": ("0",)},
        protocol=parts.PROTOCOL,
        gradient=lambda params, examples: params,
        join=lambda owners: owners,
        num_steps=1,
        learning_rate=0.1,
        num_examples=6,
        batch_size=6,
        clip_norm=1.0,
        noise_multiplier=2.0,
        num_honest=2,
        dimension=3,
    ),
}
SAMPLERS = {
    "poisson": parts.SAMPLER,
    "fixed_size": federated.fixed_size(3, 2),
    "everyone": federated.everyone(3),
}
ALGORITHMS = {
    "averaging": parts.ALGORITHM,
    "central_sgd": federated.central_sgd(
        parts.TASK, parts.SGD, federated.poisson(6, 0.5)
    ),
}
FIELDS = {
    **{
        f"{name}.participation": good(sampler.participation, num_rounds=3)
        for name, sampler in SAMPLERS.items()
    },
    **{
        f"{name}.sample": good(
            SAMPLERS[name].sample, {"state": ANY}, False, key=parts.KEY, state=()
        )
        for name in ("poisson", "fixed_size")
    },
    **{
        f"{name}.event": good(algorithm.event, num_rounds=3)
        for name, algorithm in ALGORITHMS.items()
    },
    **{
        f"{name}.init": good(algorithm.init, {}, False, key=parts.KEY)
        for name, algorithm in ALGORITHMS.items()
    },
    **{
        f"{name}.check": good(algorithm.check, clients=parts.CLIENTS)
        for name, algorithm in ALGORITHMS.items()
    },
    **{
        f"{name}.round": good(
            algorithm.round,
            {"state": ANY},
            False,
            key=parts.KEY,
            state=jax.eval_shape(algorithm.init, parts.KEY),
            clients=parts.CLIENTS,
        )
        for name, algorithm in ALGORITHMS.items()
    },
}
