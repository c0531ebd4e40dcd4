"""What does it cost to train on data that nobody may pool, on shares and with noise?

Claims to check: parties who compute on shares get the model of pooled training, which
is better than what each owner gets alone; central differential privacy for the same
epsilon needs no trusted server; with too few fraction bits training fails (Piranha,
Watson et al., USENIX Security 2022: a network on MNIST reaches 96% from 16 bits on and
10% up to 14).

There are three cases (`federated.training_on_shares`), all by full gradient descent
except the last:

    heart    logistic regression on heart disease: four hospitals share their rows among
             three parties, replicated shares
    adult    logistic regression on Adult: two parties have personal and work columns,
             additive shares and a dealer
    mnist    the 2NN on MNIST, rows split between three parties, batches of 128, which
             is also trained with fewer and more fraction bits, in one compiled program

The methods are `alone` (each owner in the clear; rows give the best and the worst
owner), `pooled` (in the clear), `shares`, and `shares + DP`. In the last, owners clip
their examples' features, the sigmoid is piecewise linear, and each party adds its noise
on shares; it shares the noise beforehand, so that noise costs no round. Epsilon is the
accountant's, for adding or removing an example of *these features*: heart's and adult's
features are standardised with means and stds of the train rows (`data.tabular`), which
epsilon does not cover and takes as public. Values are those of the protocols, emulated
in `ideal` mode; `full_agrees` says whether a full computation of every party's shares
gave the same bits. Bytes are the busiest party's; a round is one exchange, half a round
trip. Seconds are those of messages; `compute_seconds` are those of the emulation.
`smoke` uses heart disease's shape with random data; `paper` (heart and adult) and
`mnist` take about 10 minutes each on 2 cores.

    python -m experiments.private_training smoke
    python -m experiments.private_training paper
    python -m experiments.private_training mnist
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.owners.cases import CASES, Case
from ppml_lab import federated, lab, models, tables, trees
from ppml_lab.dp import accounting
from ppml_lab.smpc import approximations, network, transcript

Row = dict[str, Any]


@dataclass(frozen=True)
class Experiment:
    """The cases, budgets and lengths of training."""

    cases: tuple[str, ...] = ("random",)
    """Cases: heart, adult, mnist; or random, of heart's shape."""
    target_epsilons: tuple[float, ...] = (8.0,)
    """Epsilons of training with noise."""
    num_steps: int = 20
    """Steps of logistic regressions."""
    mnist_steps: int = 20
    """Steps of the 2NN."""
    fraction_bits: int = 16
    """Fraction bits of fixed-point numbers."""
    swept_bits: tuple[int, ...] = ()
    """Fraction bits of the 2NN's trainings."""
    num_seeds: int = 2
    """Trainings of each kind."""


CONFIGS = {
    "smoke": Experiment(),
    "paper": Experiment(
        cases=("heart", "adult"),
        target_epsilons=(0.5, 1.0, 2.0, 4.0, 8.0),
        num_steps=100,
        num_seeds=5,
    ),
    "mnist": Experiment(
        cases=("mnist",),
        mnist_steps=400,
        swept_bits=(8, 10, 12, 14, 16, 20, 24),
        num_seeds=1,
    ),
}
PAGE = {
    "minutes": {"paper": 10, "mnist": 10},
    "tables": [
        {
            "by": ["case", "method", "target_epsilon", "fraction_bits"],
            "of": {
                "accuracy": "accuracy_std",
                "worst": [],
                "online_bytes": [],
                "offline_bytes": [],
                "rounds": [],
                "wan_seconds": [],
                "compute_seconds": [],
            },
            "percent": ["accuracy", "worst"],
        },
    ],
}

EXPLORED = {
    "by": ["case", "method", "fraction_bits", "target_epsilon"],
    "std": "accuracy_std",
    "seeds": "seeds",
    "names": {
        "dataset": "case",
        "pattern": "method",
        "epsilon_public": "epsilon",
        "uplink_bytes": "online_bytes",
        "protocol_rounds": "rounds",
    },
    "constants": {
        "model": None,
        "privacy_unit": "example",
        "neighboring_relation": "add_or_remove_one",
        "trust": "distributed",
        "adversary": "public",
        "metric": "accuracy",
    },
    "words": {"dataset": {"heart": "HeartDisease", "adult": "Adult", "mnist": "Mnist"}},
    "of_a_run": True,
}
COLUMNS = ("case", "method", "fraction_bits", "accuracy", "accuracy_std", "worst")
COLUMNS += ("target_epsilon", "epsilon", "delta", "noise_stddev", "seeds")
COLUMNS += ("online_bytes", "offline_bytes", "rounds", "lan_seconds", "wan_seconds")
COLUMNS += ("compute_seconds", "full_agrees", "largest_difference")


def logistic(sigmoid: Callable[[Any], Any]) -> Any:
    def gradient(weights: Any, examples: Any) -> Any:
        x, y = examples["x"], examples["y"]
        return x.T @ (sigmoid(x @ weights) - y)

    return gradient


def perceptron(softmax: Callable[[Any], Any]) -> Any:
    module = models.two_nn(10)

    def gradient(params: Any, examples: Any) -> Any:
        logits, pull = jax.vjp(lambda p: module.apply(p, examples["x"]), params)
        return pull(softmax(logits) - examples["y"])[0]

    return gradient


def in_the_clear(case: Case, gradient: Any, start: Any, parts: Any, steps: int,
                 batch: int | None) -> Any:  # fmt: skip
    """The same training on floats in the clear."""
    count = len(case.join(parts)["y"])
    training = federated.training_on_shares(
        case.protocol(16), gradient, case.join, num_steps=steps,
        learning_rate=case.learning_rate, num_examples=count, batch_size=batch,
    )  # fmt: skip
    return jax.jit(training.in_the_clear)(start, parts)


def accuracy(params: Any, test: dict[str, np.ndarray]) -> float:
    if isinstance(params, dict):
        logits: Any = models.two_nn(10).apply(params, test["x"])
        return float(np.mean(np.argmax(logits, -1) == test["y"].argmax(-1)))
    return float(np.mean((test["x"] @ np.asarray(params) > 0) == (test["y"] > 0.5)))


def on_shares(case: Case, gradient: Any, start: Any, parts: Any, config: Experiment,
              steps: int, **options: Any) -> tuple[Row, list[Any]]:  # fmt: skip
    """The costs and the results of one kind of training, over seeds."""

    def trainer(*, ideal: bool) -> federated.SharedTraining:
        return federated.training_on_shares(
            case.protocol(config.fraction_bits, ideal=ideal),
            gradient,
            case.join,
            num_steps=steps,
            learning_rate=case.learning_rate,
            num_examples=case.num_examples,
            **options,
        )

    training = trainer(ideal=True)
    keys = [jax.random.key(seed) for seed in range(config.num_seeds)]
    if training.noise_stddev:
        # Two private trainings with one seed must not have the same noise.
        what = f"{trees.digest(parts)} {case.kind} {steps} {sorted(options.items())}"
        word = zlib.crc32(what.encode())
        keys = [jax.random.fold_in(key, word) for key in keys]
    train = jax.jit(training.train)
    found = [jax.block_until_ready(train(key, start, parts)) for key in keys]
    begin = time.perf_counter()
    jax.block_until_ready(train(keys[0], start, parts))
    seconds = time.perf_counter() - begin
    sent = transcript.priced(training.train, keys[0], start, parts)
    sizes = [sent.sent_bits(party) // 8 for party in range(case.num_parties)]
    scores = [accuracy(params, case.test) for params in found]
    over_seeds = tables.mean(scores)
    row: Row = {
        "accuracy": over_seeds.mean, "accuracy_std": over_seeds.std,
        "worst": min(scores), "seeds": over_seeds.count,
        "fraction_bits": config.fraction_bits, "online_bytes": max(sizes),
        "offline_bytes": sent.sent_bits(offline=True) // 8,
        "rounds": sent.num_rounds(), "lan_seconds": sent.seconds(network.LAN),
        "wan_seconds": sent.seconds(network.WAN), "compute_seconds": seconds,
        "noise_stddev": training.noise_stddev,
    }  # fmt: skip
    if training.noise_stddev:
        row["epsilon"] = accounting.epsilon(training.privacy_event, case.delta)
        row["delta"] = case.delta
    # In full, the 2NN takes an hour; noise differs by its stddev only.
    if not isinstance(start, dict) and not training.noise_stddev:
        whole = jax.jit(trainer(ideal=False).train)(keys[0], start, parts)
        row["full_agrees"] = bool((np.asarray(whole) == np.asarray(found[0])).all())
    return row, found


def regressions(name: str, config: Experiment) -> list[Row]:
    case, rows = CASES[name](), []
    columns = case.test["x"].shape[1]
    start, steps = jnp.zeros(columns), config.num_steps
    exact, bounded = jax.nn.sigmoid, approximations.piecewise_sigmoid
    alone, place = [], 0
    for part in case.parts.values():
        # An owner that has only columns gets the labels here.
        y = part.get("y", case.join(case.parts)["y"])
        test, width = case.test, part["x"].shape[1]
        if case.axis == 1:
            test = test | {"x": test["x"][:, place : place + width]}
            place += width
        params = in_the_clear(
            case, logistic(exact), jnp.zeros(width), {0: {"x": part["x"], "y": y}},
            steps, None,
        )  # fmt: skip
        alone.append(accuracy(params, test))
    rows.append({"method": "alone", "accuracy": max(alone), "worst": min(alone)})
    pooled = in_the_clear(case, logistic(exact), start, case.parts, steps, None)
    rows.append({"method": "pooled", "accuracy": accuracy(pooled, case.test)})
    row, found = on_shares(case, logistic(approximations.sigmoid), start, case.parts,
                           config, steps)  # fmt: skip
    worst = max(float(np.abs(params - pooled).max()) for params in found)
    rows.append({"method": "shares"} | row | {"largest_difference": worst})
    parts = case.clipped()
    clear = in_the_clear(case, logistic(bounded), start, parts, steps, None)
    about = {"method": "pooled, clipped, piecewise"}
    rows.append(about | {"accuracy": accuracy(clear, case.test)})
    honest = 2 if case.kind == "replicated" else 1
    for target in config.target_epsilons:
        private_by: dict[str, Any] = {
            "clip_norm": case.clip_norm, "num_honest": honest, "dimension": columns,
        }  # fmt: skip

        def event(noise: float, private_by: Any = private_by) -> Any:
            return federated.training_on_shares(
                case.protocol(config.fraction_bits), logistic(bounded), case.join,
                num_steps=steps, learning_rate=case.learning_rate,
                num_examples=case.num_examples, noise_multiplier=noise, **private_by,
            ).privacy_event  # fmt: skip

        noise = accounting.calibrate_noise_multiplier(event, target, case.delta)
        print(f"{name}: noise multiplier {noise:.4g} for epsilon {target}", flush=True)
        row, _ = on_shares(case, logistic(bounded), start, parts, config, steps,
                           noise_multiplier=noise, **private_by)  # fmt: skip
        rows.append({"method": "shares + DP", "target_epsilon": target} | row)
    return [{"case": name} | row for row in rows]


def networks(name: str, config: Experiment) -> list[Row]:
    case, steps = CASES[name](), config.mnist_steps
    start = models.two_nn(10).init(jax.random.key(0), jnp.zeros((1, 784)))
    exact, shared = perceptron(jax.nn.softmax), perceptron(approximations.softmax)
    alone = [
        accuracy(in_the_clear(case, exact, start, {0: part}, steps, 128), case.test)
        for part in case.parts.values()
    ]
    rows: list[Row] = [
        {"method": "alone", "accuracy": max(alone), "worst": min(alone)},
        {"method": "pooled", "accuracy": accuracy(
            in_the_clear(case, exact, start, case.parts, steps, 128), case.test)},
    ]  # fmt: skip
    row, _ = on_shares(case, shared, start, case.parts, config, steps, batch_size=128)
    rows.append({"method": "shares"} | row)

    def with_bits(bits: Any) -> Any:
        return federated.training_on_shares(
            case.protocol(bits), shared, case.join, num_steps=steps,
            learning_rate=case.learning_rate, num_examples=case.num_examples,
            batch_size=128,
        ).train(jax.random.key(0), start, case.parts)  # fmt: skip

    swept = jnp.asarray(config.swept_bits)
    found = jax.jit(lambda bits: jax.lax.map(with_bits, bits))(swept)
    for place, bits in enumerate(config.swept_bits):
        params = jax.tree.map(lambda leaf, p=place: leaf[p], found)
        score = accuracy(params, case.test)
        rows.append({"method": "bits", "fraction_bits": bits, "accuracy": score,
                     "seeds": 1})  # fmt: skip
    return [{"case": name} | row for row in rows]


def measure(config: Experiment) -> list[Row]:
    rows = []
    for name in config.cases:
        rows += (networks if name == "mnist" else regressions)(name, config)
        for row in rows:
            print({key: value for key, value in row.items() if value != ""}, flush=True)
    return [dict.fromkeys(COLUMNS, "") | row for row in rows]


if __name__ == "__main__":
    lab.run_benchmark("private_training", __doc__ or "", CONFIGS, measure)
