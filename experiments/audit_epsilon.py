"""How near do attacks come to the epsilon that accountants promise?

Claim (Nasr et al., "Tight Auditing of Differentially Private Machine Learning", USENIX
Security 2023): the stronger the adversary, the nearer the audited lower bound comes to
the upper bound; in the strongest threat model, with enough runs, the bounds meet. One
run with many canaries (Steinke et al., NeurIPS 2023; Mahloujifar et al., ICML 2025)
closes part of the gap. Fits of two Gaussians (Andrew et al., ICLR 2024) are estimates
and may lie above the upper bound.

Every attack is on real training of the handwritten digits, pooled (DP-SGD, examples are
private) and federated (DP-FedAvg, clients are private), with Poisson sampling and noise
calibrated by PLD. Attacks, from the strongest:

    mechanism       the mechanism's own releases with one contribution or none
    white box       a gradient-space canary, seen in every iterate; whole trainings
    black box       a mislabelled, a blank or a rare image, seen by its last loss
    one run         many white-box canaries in one training, each in by a fair coin
    one-shot        canary clients in random directions, by their cosines: an estimate

Thresholds of white boxes come from simulating the claimed mechanism, those of black
boxes from half of the runs. Every bound holds with 95% confidence by itself. `paper`
takes about a quarter of an hour on 2 cores, `smoke` one to two minutes.

    python -m experiments.audit_epsilon smoke
    python -m experiments.audit_epsilon paper
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.audited.trainings import CLIP_NORM, alone, dealt, pooled, task_of
from ppml_lab import audit, base, data, dp, federated, lab, models, tables
from ppml_lab.audit import bounds, canaries, evidence, one_run, probes, worlds
from ppml_lab.audit.planted import Planted, untouched
from ppml_lab.dp import accounting

Row = dict[str, Any]


@dataclass(frozen=True)
class Experiment:
    """The privacy parameters, sizes and numbers of runs."""

    target_epsilons: tuple[float, ...] = (2.0, 8.0)
    """Target epsilons of a whole training, by PLD."""
    delta: float = 1e-5
    """Delta of every epsilon and bound."""
    alpha: float = 0.05
    """The chance that a bound is wrong."""
    sampling_prob: float = 0.1
    """Sampling probability of an example in a step, and of a client in a round."""
    num_rounds: int = 20
    """Steps of pooled training, and rounds of federated."""
    num_clients: int = 100
    """Number of clients that share the digits, beside canaries."""
    mechanism_runs: int = 4096
    """Runs of the mechanism alone, on each side."""
    white_box_runs: int = 64
    """Trainings on each side."""
    black_box_runs: int = 32
    """Trainings on each side, for each image."""
    one_run_canaries: int = 100
    """Canaries in one training."""
    one_run_repeats: int = 2
    """Trainings with many canaries; each is a whole audit, and they show the spread."""
    width: int = 16
    """Trainings at once in the compiled program."""


CONFIGS = {
    "smoke": Experiment(),
    "paper": Experiment(
        target_epsilons=(1.0, 2.0, 4.0, 8.0),
        num_rounds=100,
        num_clients=200,
        mechanism_runs=131_072,
        white_box_runs=1024,
        black_box_runs=256,
        one_run_canaries=500,
        one_run_repeats=16,
    ),
}
PAGE = {
    "minutes": {"paper": 15},
    "tables": [
        {
            "title": "lower bounds, and estimates, of epsilon",
            "by": ["training", "attack", "canary", "kind", "by"],
            "across": "target_epsilon",
            "of": {"value": "spread"},
        },
        {
            "title": "upper bounds",
            "where": {"attack": "mechanism", "by": "family"},
            "by": ["target_epsilon"],
            "of": ["noise_multiplier", "epsilon_pld", "epsilon_rdp"],
        },
    ],
}

EXPLORED = {
    "by": ["training", "target_epsilon"],
    "names": {"pattern": "training", "epsilon_public": "epsilon_pld"},
    "constants": {
        "dataset": "Digits",
        "model": None,
        "privacy_unit": {"training": {"pooled": "example", "federated": "client"}},
        "neighboring_relation": "add_or_remove_one",
        "trust": "central",
        "adversary": "public",
        "metric": None,
    },
    "attack": {
        "name": ["attack", "canary", "by"],
        "value": "value",
        "where": {"kind": "lower bound"},
    },
}


def simulated(experiment: Experiment, noise: float) -> tuple[np.ndarray, np.ndarray]:
    return audit.claimed_scores(
        noise, experiment.sampling_prob, experiment.num_rounds,
        num_runs=2 * experiment.mechanism_runs, seed=1,
    )  # fmt: skip


def bounds_of(
    experiment: Experiment, choose: Callable[..., evidence.Errors]
) -> Iterator[Row]:
    """All bounds from the same runs; `choose` makes errors at a threshold for each."""
    prob, rounds = experiment.sampling_prob, experiment.num_rounds
    family = partial(bounds.sampled_gaussian, sampling_prob=prob, num_rounds=rounds)
    for bound, objective in (
        (family, audit.tradeoff.refuting(prob, rounds)),
        (bounds.gaussian, evidence.gaussian_shift),
        (bounds.clopper_pearson, evidence.ratio),
    ):
        errors = choose(alpha=experiment.alpha, objective=objective)
        found = bound(errors, delta=experiment.delta, alpha=experiment.alpha)
        yield row_of([found])


def row_of(found: list[Any]) -> Row:
    """The mean and spread of one or several bounds, or estimates, of one kind."""
    values = tables.mean(one.epsilon for one in found)
    is_bound = isinstance(found[0], bounds.LowerBound)
    row = {
        "kind": "lower bound" if is_bound else "estimate",
        "by": found[0].method,
        "value": values.mean,
        "spread": values.std,
        "repeats": values.count,
    }
    for name in ("alpha", "assumes", "num_in", "num_out", "rule"):
        row[name] = getattr(found[0], name) if is_bound else None
    return row


def scored(inside: np.ndarray, outside: np.ndarray) -> Row:
    """Measures of how well scores rank, beside the bounds that they certify."""
    found: Row = {"auc": audit.roc.auc(inside, outside).value, "tpr_at_1_percent": None}
    if len(outside) >= 1000:
        rate = audit.roc.tpr_at_fpr(inside, outside, 0.01)
        found["tpr_at_1_percent"] = rate.value
    return found


def mechanism(experiment: Experiment, noise: float) -> Iterator[Row]:
    """Audits the production mechanism alone, with one contribution or none."""
    prob, runs = experiment.sampling_prob, experiment.mechanism_runs
    subject = audit.of_mechanism(
        dp.gaussian(CLIP_NORM, noise),
        federated.poisson(worlds.NUM_ROWS, prob),
        experiment.num_rounds,
    )
    world = worlds.adversarial(CLIP_NORM, "add_or_remove_one")["empty"]
    run = probes.runner(subject, seed=2)
    scores: list[list[np.ndarray]] = [[], []]
    for side, (rows, present) in enumerate(
        [(world.rows_in, world.present_in), (world.rows_out, world.present_out)]
    ):
        for begin in range(0, runs, 8192):
            numbers = side * runs + np.arange(begin, min(begin + 8192, runs))
            seen = run(numbers, rows[None], present[None], np.zeros(len(numbers)))
            own = audit.likelihood_ratio(seen.values[:, :, 0], noise, prob)
            scores[side].append(own)
    inside, outside = map(np.concatenate, scores)
    choose = partial(
        evidence.preregistered, inside, outside, *simulated(experiment, noise)
    )
    for row in bounds_of(experiment, choose):
        yield (
            {"attack": "mechanism", "canary": "gradient"}
            | row
            | scored(inside, outside)
        )


def run_of(planted: Planted, task: base.Task, rounds: int) -> Any:
    """A training, observed in the directions of its canaries and by test accuracy."""
    test = jax.tree.map(jnp.asarray, data.load("digits").test)
    evaluate = federated.evaluator(task)
    return planted.run(rounds, lambda first, last: evaluate(last, test)["accuracy"])


def white_box(
    experiment: Experiment, noise: float, planted: Planted, task: base.Task, runs: int
) -> Iterator[Row]:
    """Audits many trainings with and without one gradient-space canary."""
    run = run_of(planted, task, experiment.num_rounds)
    many = audit.many_runs(run, experiment.width)
    seen, accuracy = many(3, planted.included(runs))
    scores = audit.likelihood_ratio(seen[:, :, 0], noise, experiment.sampling_prob)
    inside, outside = scores[:runs], scores[runs:]
    choose = partial(
        evidence.preregistered, inside, outside, *simulated(experiment, noise)
    )
    extra = scored(inside, outside) | {"accuracy": float(accuracy.mean())}
    extra |= speeds(run, many, planted)
    for row in bounds_of(experiment, choose):
        yield {"attack": "white box", "canary": "gradient"} | row | extra


def speeds(run: Any, many: Any, planted: Planted) -> Row:
    """Models trained per CPU second, vmapped and one at a time, in turns."""
    single = audit.many_runs(run, 1)
    included = planted.included(32)
    found: dict[str, list[float]] = {"vmapped": [], "one_at_a_time": []}
    for turn in range(4):
        for name, program in (("vmapped", many), ("one_at_a_time", single)):
            begin = time.process_time()
            program(turn, included)
            if turn:  # the first compiles
                found[name].append(len(included) / (time.process_time() - begin))
    return {f"models_per_cpu_second_{n}": float(np.median(v)) for n, v in found.items()}


def black_box(experiment: Experiment, noise: float, task: base.Task) -> Iterator[Row]:
    """Audits many trainings with and without one image by its last loss alone."""
    train = data.load("digits").train
    images = {
        "mislabelled": canaries.mislabelled(train, 0, 10),
        "blank": canaries.blank(train, 9),
        "rare": canaries.rarest_direction(train, 4.0, 9),
    }
    for name, image in images.items():
        found = audit.training(
            alone(experiment.sampling_prob, noise, experiment.num_rounds, task),
            train, image,
            score=lambda params, rows: -task.evaluate(params, rows)["loss"],
            num_runs=experiment.black_box_runs, width=experiment.width, seed=4,
            delta=experiment.delta, alpha=experiment.alpha,
        )  # fmt: skip
        inside, outside = found.scores_in, found.scores_out
        choose = partial(evidence.halves, inside, outside, seed=0)
        extra = scored(inside, outside)
        for row in bounds_of(experiment, choose):
            yield {"attack": "black box", "canary": name} | row | extra


def coins(experiment: Experiment, planted: Planted) -> np.ndarray:
    """The canaries that each single run includes, every one by a fair coin."""
    count, repeats = experiment.one_run_canaries, experiment.one_run_repeats
    included = np.ones((repeats, planted.sampler.population), bool)
    fair = np.random.default_rng(5).random((repeats, count)) < 0.5
    included[:, -count:] = fair
    return included


def in_one_run(
    experiment: Experiment, noise: float, planted: Planted, task: base.Task
) -> Iterator[Row]:
    """Audits single trainings with many canaries; each training is a whole audit."""
    run = run_of(planted, task, experiment.num_rounds)
    included = coins(experiment, planted)
    seen, accuracy = audit.many_runs(run, 1)(6, included)
    values = np.moveaxis(seen, 1, 2)
    scores = audit.likelihood_ratio(values, noise, experiment.sampling_prob)
    count = experiment.one_run_canaries
    guesses = [
        one_run.guess(own, mask[-count:], num_in=count // 5, num_out=count // 5)
        for own, mask in zip(scores, included, strict=True)
    ]
    for method in (one_run.steinke, one_run.gaussian):
        found = [
            method(one, delta=experiment.delta, alpha=experiment.alpha)
            for one in guesses
        ]
        extra = {"accuracy": float(accuracy.mean())}
        yield {"attack": "one run", "canary": "gradient"} | row_of(found) | extra


def one_shot(experiment: Experiment, noise: float) -> Iterator[Row]:
    """Compares the cosines of random canary clients that took part or did not."""
    task = task_of(models.two_nn(10))
    count = experiment.one_run_canaries
    params = task.init(jax.random.key(0))
    # The first half are clients; the others never take part.
    directions = canaries.isotropic(jax.random.key(7), params, 2 * count)
    planted = dealt(
        experiment.sampling_prob, experiment.num_clients, noise, task, directions, count
    )

    def cosines(tree: Any) -> Any:
        norm = jnp.maximum(optax.tree.norm(tree), 1e-12)
        return directions.project(tree) / norm

    run = audit.membership_run(
        planted.make, planted.sampler, planted.clients, experiment.num_rounds,
        per_round=cosines,
        at_the_end=lambda first, last: cosines(
            jax.tree.map(jnp.subtract, last, first)
        ),
    )  # fmt: skip
    repeats = max(2, experiment.one_run_repeats // 4)
    everyone = np.ones((repeats, planted.sampler.population), bool)
    by_round, final = audit.many_runs(run, 1)(8, everyone)
    for name, scores in (("final", final), ("all iterates", by_round.max(axis=1))):
        found = [
            bounds.two_gaussians(own[:count], own[count:], delta=experiment.delta)
            for own in scores
        ]
        yield {"attack": f"one-shot, {name}", "canary": "random"} | row_of(found)


def attacks(experiment: Experiment, noise: float) -> Iterator[tuple[Planted, Row]]:
    """The rows of every attack, with the training that they belong to."""
    logistic, two_nn = task_of(models.logistic(10)), task_of(models.two_nn(10))
    count, runs = experiment.one_run_canaries, experiment.white_box_runs
    prob, clients = experiment.sampling_prob, experiment.num_clients
    train = data.load("digits").train
    single, many = untouched(logistic, train, 1), untouched(two_nn, train, count)
    central = pooled(prob, noise, logistic, single)
    crowded = pooled(prob, noise, two_nn, many)
    at_clients = dealt(prob, clients, noise, logistic, single, 1)
    many_clients = dealt(prob, clients, noise, two_nn, many, count)
    plan: list[tuple[Planted, Iterator[Row]]] = [
        (central, mechanism(experiment, noise)),
        (central, white_box(experiment, noise, central, logistic, runs)),
        (central, black_box(experiment, noise, logistic)),
        (central, in_one_run(experiment, noise, crowded, two_nn)),
        (at_clients, white_box(experiment, noise, at_clients, logistic, runs // 2)),
        (at_clients, in_one_run(experiment, noise, many_clients, two_nn)),
        (at_clients, one_shot(experiment, noise)),
    ]
    for planted, rows in plan:
        for row in rows:
            yield planted, row


def measure(experiment: Experiment) -> list[Row]:
    """Measures every attack at every epsilon, beside both upper bounds."""
    table = []
    for target in experiment.target_epsilons:
        noise = accounting.calibrate_noise_multiplier(
            lambda noise: audit.tradeoff.sampled_gaussian(
                noise, experiment.sampling_prob, experiment.num_rounds
            ),
            target, experiment.delta, "pld",
        )  # fmt: skip
        for planted, row in attacks(experiment, noise):
            event = planted.make(planted.sampler).event(experiment.num_rounds)
            upper = {
                f"epsilon_{name}": accounting.epsilon(event, experiment.delta, name)
                for name in ("rdp", "pld")
            }
            where = "pooled" if event.privacy_unit == "example" else "federated"
            named = {"training": where, "target_epsilon": target}
            table.append(named | row | upper | {"noise_multiplier": noise})
            print(
                f"{where}, epsilon {target:g}: {row['attack']} ({row['canary']}), "
                f"{row['kind']} by {row['by']}: {row['value']:.2f}",
                flush=True,
            )
    columns = list(dict.fromkeys(name for row in table for name in row))
    return [{name: row.get(name) for name in columns} for row in table]


if __name__ == "__main__":
    lab.run_benchmark("audit_epsilon", __doc__ or "", CONFIGS, measure)
