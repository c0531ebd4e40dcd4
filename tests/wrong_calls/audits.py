"""Good calls of audit."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ppml_lab import audit, dp, federated

from . import parts
from .values import ANY, FLOATS, SEED, ZERO, good


def people_trained(task: Any, people: Any) -> Any:
    """An algorithm whose clients sum their people's gradients."""
    trainer = federated.example_gradients(task, people, 0.5, method="vmap")
    return federated.averaging(
        task, trainer, federated.everyone(3), mechanism=parts.EXAMPLES
    )


def never(*args: Any) -> Any:
    """A run of a subject that is called with nothing but wrong arguments."""
    raise AssertionError("a wrong call has come to a run")


ALPHA = {"delta": 1e-5, "alpha": 0.05}
SCORED = {"scores_in": parts.SCORES[0], "scores_out": parts.SCORES[1]}
RANKED = {"members": parts.SCORES[0], "others": parts.SCORES[1]}
AUDIT = {
    "bounds.clopper_pearson": good(
        audit.bounds.clopper_pearson, errors=parts.ERRORS, **ALPHA
    ),
    "bounds.gaussian": good(audit.bounds.gaussian, errors=parts.ERRORS, **ALPHA),
    "bounds.gaussian_mu": good(
        audit.bounds.gaussian_mu, errors=parts.ERRORS, alpha=0.05
    ),
    "bounds.sampled_gaussian": good(
        audit.bounds.sampled_gaussian,
        {},
        False,
        errors=parts.ERRORS,
        sampling_prob=0.5,
        num_rounds=2,
        **ALPHA,
    ),
    "bounds.ceiling": good(audit.bounds.ceiling, num_runs=100, **ALPHA),
    "bounds.two_gaussians": good(
        audit.bounds.two_gaussians,
        seen=parts.SCORES[0],
        unseen=parts.SCORES[1],
        delta=1e-5,
    ),
    "bounds.smallest_gdp_of_pure": good(
        audit.bounds.smallest_gdp_of_pure, {"epsilon": ("0", "inf")}, epsilon=1.0
    ),
    "evidence.halves": good(
        audit.evidence.halves,
        SEED,
        seed=0,
        alpha=0.05,
        objective=audit.evidence.ratio,
        **SCORED,
    ),
    "evidence.preregistered": good(
        audit.evidence.preregistered,
        {"simulated_in": FLOATS, "simulated_out": FLOATS},
        simulated_in=parts.SCORES[2],
        simulated_out=parts.SCORES[3],
        alpha=0.05,
        objective=audit.evidence.ratio,
        **SCORED,
    ),
    "evidence.least_runs": good(
        audit.evidence.least_runs,
        {"epsilon": ("0",), "delta": ("0",)},
        alpha=0.05,
        epsilon=1.0,
        delta=1e-5,
    ),
    "evidence.rates": good(audit.evidence.rates, errors=parts.ERRORS, alpha=0.05),
    "one_run.guess": good(
        audit.one_run.guess,
        {"num_in": ("0",), "num_out": ("0",)},
        scores=parts.SCORES[0],
        included=parts.SCORES[1] > 0,
        num_in=3,
        num_out=3,
    ),
    "one_run.steinke": good(audit.one_run.steinke, guesses=parts.GUESSES, **ALPHA),
    "one_run.steinke_p_value": good(
        audit.one_run.steinke_p_value,
        {"epsilon": ("0",), "delta": ("0",)},
        guesses=parts.GUESSES,
        epsilon=1.0,
        delta=1e-5,
    ),
    "one_run.gaussian": good(audit.one_run.gaussian, guesses=parts.GUESSES, **ALPHA),
    "one_run.refutes_gaussian": good(
        audit.one_run.refutes_gaussian,
        {"mu": ("0",)},
        guesses=parts.GUESSES,
        mu=1.0,
        alpha=0.05,
    ),
    "roc.curve": good(audit.roc.curve, {"members": FLOATS, "others": FLOATS}, **RANKED),
    "roc.auc": good(
        audit.roc.auc,
        {"members": ("two floats",), "others": ("two floats",)},
        alpha=0.05,
        **RANKED,
    ),
    "roc.tpr_at_fpr": good(
        audit.roc.tpr_at_fpr,
        {"members": FLOATS},
        fpr=0.1,
        alpha=0.05,
        **RANKED,
    ),
    "tradeoff.sampled_gaussian": good(
        audit.tradeoff.sampled_gaussian,
        ZERO,
        noise_multiplier=2.0,
        sampling_prob=0.5,
        num_rounds=2,
    ),
    "tradeoff.refuting": good(audit.tradeoff.refuting, sampling_prob=0.5, num_rounds=2),
    "canaries.dirac": good(
        audit.canaries.dirac,
        {"coordinates": ("[1]",), "params": ("2-d", "float32 nan", "two floats")},
        params=parts.PARAMS,
        coordinates=np.array([0, 3]),
    ),
    "canaries.isotropic": good(
        audit.canaries.isotropic,
        {"params": ("2-d", "float32 nan", "two floats")},
        key=parts.KEY,
        params=parts.PARAMS,
        count=2,
    ),
    "canaries.gradient_canaries": good(
        audit.canaries.gradient_canaries,
        loss=parts.TASK.loss,
        directions=parts.DIRECTIONS,
        method="auto",
    ),
    "canaries.canary_clients": good(
        audit.canaries.canary_clients,
        trainer=parts.TRAINER,
        directions=parts.DIRECTIONS,
    ),
    "canaries.only": good(
        audit.canaries.only,
        sampler=parts.SAMPLER,
        present=np.array([True, False, True]),
    ),
    "canaries.mislabelled": good(
        audit.canaries.mislabelled,
        {"row": ("0",)},
        examples=parts.ROWS,
        row=1,
        num_classes=2,
    ),
    "canaries.blank": good(
        audit.canaries.blank, {"label": ("0",)}, examples=parts.ROWS, label=1
    ),
    "canaries.rarest_direction": good(
        audit.canaries.rarest_direction,
        {"label": ("0",)},
        examples=parts.ROWS,
        norm=1.0,
        label=1,
    ),
    "canaries.append": good(
        audit.canaries.append,
        {"numbers": ("[1]",)},
        examples=parts.ROWS,
        rows={"x": parts.ROWS["x"][:1], "y": parts.ROWS["y"][:1]},
        numbers=[0],
    ),
    "likelihood_ratio": good(
        audit.likelihood_ratio,
        {"values": ("2-d", *FLOATS)},
        values=np.zeros((2, 3)),
        noise_multiplier=2.0,
        sampling_prob=0.5,
    ),
    "claimed_scores": good(
        audit.claimed_scores,
        SEED,
        noise_multiplier=2.0,
        sampling_prob=0.5,
        num_rounds=2,
        num_runs=3,
        seed=0,
    ),
    "check_mechanism": good(
        audit.check_mechanism,
        SEED,
        False,
        subject=audit.Subject(never, parts.EVENT, 0.5, (2.0, 2.0)),
        num_runs=1000,
        seed=0,
        detectors=("replay",),
    ),
    "check_clipping": good(
        audit.check_clipping,
        {"state": ANY},
        False,
        make=lambda loss: dp.clipped_total(loss, parts.EXAMPLES),
        clip_norm=0.5,
        state=(),
        num_left_out=3,
    ),
    "check_independence": good(
        audit.check_independence,
        SEED,
        False,
        runs={"a": lambda seed: np.zeros(3), "b": lambda seed: np.zeros(3)},
        num_seeds=12,
        seed=0,
    ),
    "of_mechanism": good(
        audit.of_mechanism,
        mechanism=parts.CENTRAL,
        sampler=federated.poisson(audit.worlds.NUM_ROWS, 0.5),
        num_rounds=2,
        tree=audit.worlds.as_tree,
        dtype=jnp.float32,
        noise=2.0,
        mixing=(1.0, -0.5),
    ),
    "of_local_mechanism": good(
        audit.of_local_mechanism,
        mechanism=dp.local_gaussian(0.5, 2.0),
        clip_norm=0.5,
        num_rounds=2,
        noise=2.0,
        additive=True,
    ),
    "of_algorithm": good(
        audit.of_algorithm,
        {},
        False,
        make=lambda task, sampler: parts.ALGORITHM,
        mechanism=parts.CENTRAL,
        sampler=federated.poisson(audit.worlds.NUM_ROWS, 0.5),
        num_rounds=2,
        aggregator=None,
        also_seen=lambda state: jnp.zeros(0),
        steps_per_round=1,
        tree=audit.worlds.as_tree,
        frozen=False,
        noise=2.0,
        mixing=(1.0, -0.5),
    ),
    "of_trainer": good(
        audit.of_trainer,
        {},
        False,
        make=lambda task: parts.TRAINER,
        mechanism=parts.EXAMPLES,
        sampling_prob=0.5,
        num_rounds=2,
    ),
    "of_people": good(
        audit.of_people,
        {"rows_each": ("True",)},
        False,
        make=people_trained,
        mechanism=parts.EXAMPLES,
        sampling_prob=0.5,
        num_rounds=2,
        rows_each=1,
        aggregator=None,
    ),
    "of_shared_training": good(
        audit.of_shared_training,
        {},
        False,
        protocol=parts.PROTOCOL,
        clip_norm=0.5,
        noise_multiplier=2.0,
        num_steps=2,
    ),
    "training": good(
        audit.training,
        SEED | {"instead": ("None",)},
        False,
        train=lambda key, examples: 0.0,
        examples=parts.ROWS,
        canary={name: rows[:1] for name, rows in parts.ROWS.items()},
        score=lambda model, rows: 0.0,
        instead=None,
        num_runs=40,
        width=8,
        seed=0,
        **ALPHA,
    ),
    "training_in_one_run": good(
        audit.training_in_one_run,
        SEED,
        False,
        train=lambda key, examples: 0.0,
        examples=parts.ROWS,
        canaries=parts.ROWS,
        score=lambda model, rows: 0.0,
        guessed=0.4,
        seed=0,
        **ALPHA,
    ),
    "planted.in_examples": good(
        audit.planted.in_examples,
        {"moves": ("-1", "-2**63")},
        False,
        make=lambda sampler, method: parts.ALGORITHM,
        loss=parts.TASK.loss,
        examples=parts.ROWS,
        directions=parts.DIRECTIONS,
        sampler=lambda population: federated.poisson(population, 0.5),
        moves=1.0,
        num_canaries=1,
    ),
    "planted.in_clients": good(
        audit.planted.in_clients,
        {"moves": ("-1", "-2**63")},
        False,
        make=lambda sampler, trainer: parts.ALGORITHM,
        trainer=parts.TRAINER,
        examples=parts.ROWS,
        owners=np.arange(len(parts.ROWS["y"])),
        directions=parts.DIRECTIONS,
        sampler=lambda population: federated.poisson(population, 0.5),
        moves=1.0,
        num_canaries=1,
    ),
    "planted.untouched": good(
        audit.planted.untouched,
        {},
        False,
        task=parts.TASK,
        examples=parts.ROWS,
        count=1,
    ),
    "membership_run": good(
        audit.membership_run,
        make=lambda sampler: parts.ALGORITHM,
        sampler=parts.SAMPLER,
        clients=parts.CLIENTS,
        num_rounds=2,
        per_round=lambda change: change,
        at_the_end=lambda first, last: last,
    ),
    "many_runs(...)": good(
        audit.many_runs(lambda key, included: included, 1),
        SEED,
        False,
        seed=0,
        included=np.ones((2, 3), bool),
    ),
    "many_runs": good(audit.many_runs, run=lambda key, included: key, width=1),
}
