"""Every mechanism, sampler and round function of the lab passes the contract."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import audit, dp, federated, models, smpc
from ppml_lab.audit import contract, probes, worlds
from ppml_lab.dp import strategies

N = worlds.NUM_ROWS
SGD = optax.sgd(1.0)
MOMENTUM = optax.sgd(1.0, momentum=0.9)
NESTED = worlds.as_nested
POISSON = federated.poisson(N, 0.25)
EVERYONE = federated.everyone(N)
FIXED = federated.fixed_size(N, 3)
CLIENT = dp.gaussian(0.5, 0.8)
LARGE = dp.gaussian(2.0, 0.7)
EXAMPLE = dp.gaussian(0.5, 0.8, privacy_unit="example")
TURNS = federated.min_separation(N, 3)
CORRELATED = dp.correlated_gaussian(0.5, 0.8, 0.6)
MIXED = {"noise": 0.8, "mixing": (1.0, -0.6)}
BANDS = strategies.square_root(4)
ADAPTIVE = dp.adaptive_gaussian(0.5, 0.8, POISSON.expected_cohort)
PROBES = ("replay", "noise", "participation")
QUICK = tuple(set(contract.DETECTORS) - {"tails", "crowd"})


def one_step(task):
    return federated.local_sgd(task, SGD, 1, num_steps=1)


def fedprox(task):
    return federated.proximal_sgd(task, SGD, 1, 0.5, num_steps=1)


def few_coordinates(task):
    """Clients keep what they do not send, without noise, for later rounds."""
    return federated.top_k(task, one_step(task), num_sent=2)


def fedavg(mechanism, sampler, trainer=one_step, num_rounds=2, seen=(), **parts):
    """An averaging round as the contract sees it."""

    def make(task, sampler):
        return federated.averaging(
            task, trainer(task), sampler, mechanism=mechanism, **parts
        )

    return audit.of_algorithm(
        make,
        mechanism,
        sampler,
        num_rounds,
        aggregator=parts.get("aggregator"),
        **dict(seen),
    )


def scaffold(mechanism, sampler):
    def make(task, sampler):
        trainer, server = federated.scaffold(task, SGD, 1, num_steps=1)
        return federated.averaging(
            task, trainer, sampler, server=server, mechanism=mechanism
        )

    def control(state):
        """The server's control, a second noisy mean in every release."""
        scale = sampler.population / sampler.expected_cohort
        return scale * worlds.as_rows(state.memory[1])

    subject = audit.of_algorithm(make, mechanism, sampler, 2, also_seen=control)
    # Who comes a second time sends little: replay does not see it take part.
    return subject._replace(sampling_prob=None)


def central(mechanism, sampler, optimizer=SGD, num_rounds=4, seen=(), **parts):
    def make(task, sampler):
        return federated.central_sgd(
            task, optimizer, sampler, mechanism=mechanism, method="vmap", **parts
        )

    return audit.of_algorithm(make, mechanism, sampler, num_rounds, **dict(seen))


def two_steps(**seen):
    return central(
        EXAMPLE,
        POISSON,
        num_rounds=2,
        steps_per_round=2,
        seen={"steps_per_round": 2, **seen},
    )


def at_the_client(mechanism):
    return audit.of_trainer(
        lambda task: federated.local_dp_sgd(
            task, SGD, mechanism, 0.25, 1, N, method="vmap"
        ),
        mechanism,
        0.25,
        4,
    )


def of_people(mechanism=EXAMPLE, aggregator=None, rows_each=2):
    def make(task, people):
        return federated.averaging(
            task,
            federated.example_gradients(task, people, 0.25, method="vmap"),
            federated.everyone(people.num_clients),
            mechanism=mechanism,
            aggregator=aggregator,
        )

    return audit.of_people(
        make, mechanism, 0.25, 2, rows_each=rows_each, aggregator=aggregator
    )


def with_own_leaf(task):
    """The task, and a leaf with huge gradients that each client keeps."""

    def init(key):
        return task.init(key) | {"own": jnp.ones(3)}

    def loss(key, params, examples):
        own = 1e6 * jnp.sum(params["own"])
        return task.loss(key, params, examples) + own

    return models.personal(task._replace(init=init, loss=loss), ["own"])


def personal(mechanism, sampler):
    def make(task, sampler):
        task = with_own_leaf(task)
        trainer = federated.local_sgd(task, SGD, 1, num_steps=1)
        return federated.averaging(task, trainer, sampler, mechanism=mechanism)

    return audit.of_algorithm(make, mechanism, sampler, 2)


def shares(mode, bits=32):
    return smpc.additive_sharing(3, N, 0.5, mode=mode, bits=bits)


def masks(mode, max_abs=0.5):
    return smpc.pairwise_masking(smpc.graphs.complete(3, 2), max_abs, mode=mode)


def coded(mode):
    code = smpc.lightsecagg.Code(3, 2, 1)
    return smpc.light_secagg(code, 0.5, mode=mode)


mechanism = functools.partial(audit.of_mechanism)
SUBJECTS = {
    "gaussian, everyone": lambda: mechanism(LARGE, EVERYONE, 2),
    "gaussian, poisson": lambda: mechanism(CLIENT, POISSON, 4),
    "gaussian, fixed size": lambda: mechanism(CLIENT, FIXED, 4),
    "per layer": lambda: mechanism(
        dp.gaussian(0.5, 0.8, rule="per_layer"), EVERYONE, 2, tree=NESTED
    ),
    "short floats": lambda: mechanism(CLIENT, POISSON, 4, dtype=jnp.bfloat16),
    "examples of short floats": lambda: mechanism(
        EXAMPLE, POISSON, 2, dtype=jnp.float16
    ),
    "normalised": lambda: mechanism(
        dp.gaussian(2.0, 0.7, rule="normalised"), EVERYONE, 2
    ),
    "adaptive": lambda: mechanism(ADAPTIVE, POISSON, 4),
    "scheduled": lambda: mechanism(
        dp.scheduled_gaussian(0.5, optax.linear_schedule(0.9, 0.6, 4)), POISSON, 4
    ),
    "correlated": lambda: mechanism(CORRELATED, EVERYONE, 4, **MIXED),
    "banded, in turn": lambda: mechanism(
        dp.correlated_gaussian(0.5, 0.8, BANDS),
        TURNS,
        5,
        noise=0.8,
        mixing=(1.0, *(-part for part in BANDS)),
    ),
    "gaussian, in turn": lambda: mechanism(CLIENT, TURNS, 5),
    "live": lambda: mechanism(dp.live(CLIENT, POISSON, 1e-2), POISSON, 4),
    "examples": lambda: mechanism(EXAMPLE, POISSON, 4),
    "adaptive, examples": lambda: mechanism(
        dp.adaptive_gaussian(0.5, 0.8, POISSON.expected_cohort, privacy_unit="example"),
        POISSON,
        4,
    ),
    "local gaussian": lambda: audit.of_local_mechanism(
        dp.local_gaussian(0.5, 0.8), 0.5, 2, noise=0.8
    ),
    "local laplace": lambda: audit.of_local_mechanism(
        dp.local_laplace(0.5, 0.8), 0.5, 2
    ),
    "randomised response": lambda: audit.of_local_mechanism(
        dp.randomised_response(0.5, 0.8), 0.5, 2, additive=False
    ),
    "FedAvg": lambda: fedavg(CLIENT, POISSON),
    "FedAvg, adaptive": lambda: fedavg(ADAPTIVE, POISSON),
    "FedAvg, fixed size": lambda: fedavg(CLIENT, FIXED),
    "FedAvg, correlated, in turn": lambda: fedavg(
        CORRELATED, TURNS, num_rounds=4, seen=MIXED
    ),
    "DP-SGD, correlated": lambda: central(
        dp.correlated_gaussian(0.5, 0.8, 0.6, privacy_unit="example"),
        EVERYONE,
        seen=MIXED,
    ),
    "FedProx": lambda: fedavg(LARGE, EVERYONE, fedprox),
    "SCAFFOLD": lambda: scaffold(CLIENT, POISSON),
    "top-k with a memory": lambda: fedavg(CLIENT, POISSON, few_coordinates),
    "DP-SGD": lambda: central(EXAMPLE, POISSON),
    "DP-SGD, two steps a round, with a constant leaf": lambda: two_steps(frozen=True),
    "DP-SGD with momentum": lambda: central(EXAMPLE, POISSON, MOMENTUM, 1),
    "FedAvg with momentum": lambda: fedavg(
        CLIENT, POISSON, num_rounds=1, server=federated.fedopt(MOMENTUM)
    ),
    "FedAvg of a deeper model with a constant leaf": lambda: fedavg(
        CLIENT, POISSON, seen={"tree": NESTED, "frozen": True}
    ),
    "DP-SGD in microbatches": lambda: central(EXAMPLE, POISSON, microbatch_size=2),
    "DP-SGD at the client": lambda: at_the_client(EXAMPLE),
    "FedAvg on shares": lambda: fedavg(CLIENT, POISSON, aggregator=shares("identity")),
    "FedAvg under masks": lambda: fedavg(CLIENT, FIXED, aggregator=masks("identity")),
    "people of hospitals": lambda: of_people(rows_each=1),
    "people of several rows": of_people,
    "people under masks": lambda: of_people(aggregator=masks("identity", None)),
    "people, adaptive": lambda: of_people(
        dp.adaptive_gaussian(0.5, 0.8, 0.25 * N, privacy_unit="example")
    ),
    "FedAvg with a leaf of one's own": lambda: personal(CLIENT, POISSON),
    "training on shares": lambda: audit.of_shared_training(
        smpc.private.protocol("additive", fraction_bits=16, ideal=True), 0.5, 0.8, 2
    ),
    "FedAvg under coded masks": lambda: fedavg(
        CLIENT, FIXED, aggregator=coded("identity")
    ),
}
PROBED = {
    "FedAvg on all shares": lambda: fedavg(CLIENT, POISSON, aggregator=shares("full")),
}
"""Too slow for tens of thousands of runs: probes only."""


MILLIONS = {
    "gaussian, poisson": ("tails",),
    "local gaussian": ("tails",),
    "examples": ("crowd",),
    "DP-SGD": ("crowd",),
}
"""Who makes millions of draws, or sums 100,000 rows, in CI."""

TWICE = (
    *("DP-SGD with momentum", "FedAvg with momentum", "examples of short floats"),
    *("FedAvg of a deeper model with a constant leaf", "live"),
    *("adaptive, examples", "DP-SGD in microbatches", "FedProx"),
    *("FedAvg, adaptive", "FedAvg, fixed size", "FedAvg under coded masks"),
    *("banded, in turn", "gaussian, in turn", "FedAvg, correlated, in turn"),
    *("DP-SGD, correlated", "correlated"),
    "top-k with a memory",
    *("people of hospitals", "people of several rows", "people, adaptive"),
    *("people under masks", "FedAvg with a leaf of one's own"),
    *("gaussian, fixed size", "FedAvg on shares", "scheduled", "per layer"),
    *("normalised", "DP-SGD, two steps a round, with a constant leaf"),
    *("gaussian, everyone", "FedAvg", "DP-SGD at the client", "short floats"),
)
"""Their parts are in other subjects, and tests of their own show what they add."""


@pytest.mark.parametrize(
    ("name", "num_runs"),
    [
        pytest.param(
            name,
            num_runs,
            marks=pytest.mark.exhaustive if name in TWICE or num_runs > 2000 else [],
        )
        for name in SUBJECTS
        for num_runs in (2000, 20_000)
    ],
)
def test_everything_private_passes_the_contract(name, num_runs):
    some = (*QUICK, *MILLIONS.get(name, ()))
    detectors = some if num_runs == 2000 else contract.DETECTORS
    report = audit.check_mechanism(
        SUBJECTS[name](), num_runs=num_runs, detectors=detectors
    )
    assert report.passed, report


@pytest.mark.exhaustive  # sums are the same in every mode, `identity` runs above
@pytest.mark.parametrize("name", PROBED)
def test_what_runs_slowly_passes_the_probes(name):
    report = audit.check_mechanism(PROBED[name](), detectors=PROBES)
    assert report.passed, report


@pytest.mark.exhaustive
def test_full_masks_hide_no_more_than_they_say():
    """Masks in full: replay with few keys, as a round of masks takes long."""
    for aggregator in (masks("full"), coded("full")):
        subject = fedavg(CLIENT, FIXED, aggregator=aggregator)
        run = probes.runner(subject, 0, chunk=128)
        assert not probes.replay(subject, run, num_keys=4).refuted


def test_no_privacy_is_nothing_to_check():
    with pytest.raises(ValueError, match="must add noise to the sum"):
        audit.of_mechanism(dp.no_privacy(), EVERYONE, 2)
    with pytest.raises(ValueError, match=r"build the sampler for worlds\.NUM_ROWS"):
        audit.of_mechanism(CLIENT, federated.everyone(5), 2)


@pytest.mark.parametrize("degenerate", [dp.gaussian(1.0, 0.8), dp.gaussian(0.5, 1.0)])
def test_noise_and_clip_norm_of_one_are_refused(degenerate):
    subject = audit.of_mechanism(degenerate, EVERYONE, 2)
    with pytest.raises(ValueError, match="must not be 1, which hides several bugs"):
        audit.check_mechanism(subject)


def test_bad_arguments_are_named():
    subject = audit.of_mechanism(CLIENT, EVERYONE, 2)
    with pytest.raises(
        ValueError, match=r"detectors must be some of replay, .* got sniff"
    ):
        audit.check_mechanism(subject, detectors=("sniff",))
    with pytest.raises(ValueError, match="make at least 22"):
        audit.check_mechanism(subject, num_runs=20, detectors=("audit",))


def test_a_report_names_what_refuted():
    found = [probes.Finding(name, name == "noise", "") for name in contract.DETECTORS]
    report = contract.Report(tuple(found))
    assert (report.passed, report.refuted_by) == (False, ("noise",))


def test_the_runner_uses_every_key_once_and_pads_nothing_in():
    subject = audit.of_mechanism(CLIENT, EVERYONE, 2)
    run = probes.runner(subject, 0, chunk=16)
    rows, present = worlds.nobody("add_or_remove_one")
    seen = run(np.arange(40), rows[None], present[None], np.zeros(40)).values
    assert seen.shape == (40, 2, worlds.DIMENSION)
    assert len(np.unique(seen)) > 0.99 * seen.size
    again = probes.runner(subject, 0, chunk=7)
    other = again(np.arange(40), rows[None], present[None], np.zeros(40)).values
    np.testing.assert_allclose(seen, other, rtol=1e-6)
    assert jax.tree.all(jax.tree.map(np.isfinite, seen.sum()))
