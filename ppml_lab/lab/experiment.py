"""From a configuration to an algorithm: the one place for names."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ppml_lab import arguments, base, checks, dp, federated, models, smpc
from ppml_lab.dp.gradients import METHODS
from ppml_lab.lab import fields
from ppml_lab.lab.config import Config, Hyperparams
from ppml_lab.lab.loading import DataFacts

Optimizer = Callable[[Any], optax.GradientTransformation]

_OPTIMIZERS: Mapping[str, Optimizer] = {
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    # Reddi et al., ICLR 2021, take 1e-3 for the adaptivity of all three.
    "adam": lambda rate: optax.adam(rate, b2=0.99, eps=1e-3),
    "yogi": lambda rate: optax.yogi(rate, b2=0.99, eps=1e-3),
    "adagrad": lambda rate: optax.adagrad(rate, eps=1e-3),
}
_MODELS: Mapping[str, Callable[[int], Any]] = {
    "logistic": models.logistic,
    "2nn": models.two_nn,
    "cnn": models.CNN,
    "lenet": models.LeNet,
    "tutorial_cnn": models.TutorialCNN,
    "tanh_cnn": functools.partial(models.TutorialCNN, activation=jax.nn.tanh),
}
_SAMPLERS = ("everyone", "fixed_size", "poisson")
ALGORITHMS = ("fedavg", "fedprox", "scaffold")
SECURE_SUMS = ("clear", "additive_sharing", "pairwise_masking", "light_secagg")
PRIVACIES = ("none", "central", "local", "example", "local_dp_sgd")


@arguments.checked
def make_task(config: Config, facts: DataFacts) -> base.Task:
    """The task of `config.model` on data with these facts."""
    checks.known("model", config.model, _MODELS)
    module = _MODELS[config.model](facts.num_classes)
    return models.flax_classification(module, facts.input_shape)


@arguments.checked
def build(
    config: Config, hyperparams: Hyperparams, facts: DataFacts
) -> base.FederatedAlgorithm:
    """The algorithm of a configuration.

    Called with numbers it checks them all and can state its event; called with traced
    hyperparameters inside jit it is the same algorithm, compiled for any of them.

    Raises:
      ValueError: For unknown names (the nearest is suggested), bad numbers, or parts
        that do not go together.
    """
    fields.check(config, hyperparams)
    checks.known("algorithm", config.algorithm, ALGORITHMS)
    checks.known("privacy", config.privacy, PRIVACIES)
    checks.known("secure_sum", config.secure_sum, SECURE_SUMS)
    checks.known("clipping", config.clipping, (*dp.CLIPPING_RULES, "adaptive"))
    checks.known("sampler", config.sampler, _SAMPLERS)
    checks.known("per_example", config.per_example, METHODS)
    checks.known("client_optimizer", config.client_optimizer, _OPTIMIZERS)
    checks.known("server_optimizer", config.server_optimizer, _OPTIMIZERS)
    checks.positive("learning_rate", hyperparams.learning_rate)
    checks.positive("server_learning_rate", hyperparams.server_learning_rate)
    _check_share(config, hyperparams.cohort_share)
    task = make_task(config, facts)
    optimizer = _OPTIMIZERS[config.client_optimizer](hyperparams.learning_rate)
    if config.training == "central":
        return _build_central(config, hyperparams, facts, task, optimizer)
    if config.privacy == "example":
        raise ValueError(
            "privacy 'example' belongs to central training; clients protect their "
            "examples with 'local_dp_sgd'"
        )
    sampler = _sampler(config, hyperparams, facts.num_clients)
    trainer, server = _parts(config, hyperparams, facts, task, optimizer)
    return federated.averaging(
        task,
        trainer,
        sampler,
        server=server,
        mechanism=_mechanism(config, hyperparams, sampler),
        aggregator=_aggregator(config, hyperparams, sampler),
        weighting=config.weighting,
        dropout_prob=hyperparams.dropout_prob,
        num_lanes=config.num_lanes,
        mesh=federated.client_mesh(config.num_devices),
    )


def _sampler(
    config: Config, hyperparams: Hyperparams, population: int
) -> base.ClientSampler:
    cohort = config.cohort
    if config.sampler == "everyone":
        return federated.everyone(population)
    if config.sampler == "fixed_size":
        size = _whole_cohort(cohort, hyperparams.cohort_share)
        return federated.fixed_size(population, size, _whole_cohort(cohort, 1.0))
    mesh = federated.client_mesh(config.num_devices) if config.shard_data else None
    return federated.poisson(population, _cohort_prob(population, cohort), mesh)


def _build_central(
    config: Config,
    hyperparams: Hyperparams,
    facts: DataFacts,
    task: base.Task,
    optimizer: optax.GradientTransformation,
) -> base.FederatedAlgorithm:
    if config.shard_data:
        raise ValueError(
            "shard_data deals examples by client, and central training draws from all "
            "of them; leave it out"
        )
    if config.privacy not in ("none", "example") or config.secure_sum != "clear":
        raise ValueError(
            f"central training has no clients: privacy '{config.privacy}' with secure "
            f"sum '{config.secure_sum}' has no meaning; use privacy 'none' or 'example'"
        )
    sampler = _sampler(config, hyperparams, facts.num_examples)
    return federated.central_sgd(
        task,
        optimizer,
        sampler,
        mechanism=_mechanism(config, hyperparams, sampler),
        steps_per_round=config.steps_per_round,
        method=config.per_example,
        microbatch_size=config.microbatch_size,
        mesh=federated.client_mesh(config.num_devices),
    )


def _parts(
    config: Config,
    hyperparams: Hyperparams,
    facts: DataFacts,
    task: base.Task,
    optimizer: optax.GradientTransformation,
) -> tuple[base.ClientTrainer, base.Server]:
    """What the algorithm's clients do, and its server."""
    server_optimizer = _OPTIMIZERS[config.server_optimizer](
        hyperparams.server_learning_rate
    )
    server = federated.fedopt(server_optimizer)
    size, epochs = config.batch_size, config.local_epochs
    if config.privacy == "local_dp_sgd":
        return _private_trainer(config, hyperparams, facts, task, optimizer), server
    if config.algorithm == "fedprox":
        mu = hyperparams.proximal_mu
        return federated.proximal_sgd(
            task, optimizer, size, mu, num_epochs=epochs
        ), server
    if config.algorithm == "scaffold":
        return federated.scaffold(
            task, optimizer, size, num_epochs=epochs, server_optimizer=server_optimizer
        )
    return federated.local_sgd(task, optimizer, size, num_epochs=epochs), server


def _private_trainer(
    config: Config,
    hyperparams: Hyperparams,
    facts: DataFacts,
    task: base.Task,
    optimizer: optax.GradientTransformation,
) -> base.ClientTrainer:
    if config.algorithm != "fedavg":
        raise ValueError(
            "privacy 'local_dp_sgd' noises the gradients of plain local SGD, of which "
            f"algorithm '{config.algorithm}' has no version; use 'fedavg'"
        )
    mechanism = dp.gaussian(
        hyperparams.clip_norm,
        hyperparams.noise_multiplier,
        privacy_unit="example",
        rule=config.clipping,
    )
    return federated.local_dp_sgd(
        task,
        optimizer,
        mechanism,
        sampling_prob=min(1.0, config.batch_size / facts.max_client_size),
        num_steps=config.steps_per_round,
        max_client_size=facts.max_client_size,
        method=config.per_example,
    )


def _mechanism(
    config: Config, hyperparams: Hyperparams, sampler: base.ClientSampler
) -> base.PrivacyMechanism:
    clip_norm, noise = hyperparams.clip_norm, hyperparams.noise_multiplier
    if config.privacy == "local":
        if config.clipping != "flat":
            raise ValueError(
                "privacy 'local' clips whole updates, so that clipping "
                f"'{config.clipping}' would change nothing; use 'flat'"
            )
        return dp.local_gaussian(clip_norm, noise)
    if config.privacy not in ("central", "example"):
        return dp.no_privacy()
    unit = "client" if config.privacy == "central" else "example"
    if config.clipping == "adaptive":
        # Examples do not drop out.
        staying = 1 - hyperparams.dropout_prob if unit == "client" else 1
        return dp.adaptive_gaussian(
            clip_norm,
            noise,
            sampler.expected_cohort * staying,
            target_quantile=config.target_quantile,
            privacy_unit=unit,
        )
    return dp.gaussian(clip_norm, noise, privacy_unit=unit, rule=config.clipping)


def _aggregator(
    config: Config, hyperparams: Hyperparams, sampler: base.ClientSampler
) -> base.SecureAggregator:
    if config.secure_sum == "clear":
        return smpc.clear()
    # Central mechanisms state what bounds an update; noise at the clients has no bound.
    max_abs = None if config.privacy == "central" else config.max_abs
    bits, size = hyperparams.modulus_bits, sampler.max_cohort
    options = {
        "scale": smpc.power_of_two(hyperparams.scale_bits),
        "wraps": config.sums_may_wrap,
        "mode": config.secure_mode,
    }
    if config.secure_sum == "additive_sharing":
        return smpc.additive_sharing(
            config.num_parties, max_abs=max_abs, bits=bits, **options
        )
    if config.secure_sum == "pairwise_masking":
        graph = _mask_graph(config, sampler)
        return smpc.pairwise_masking(graph, max_abs, bits=bits, **options)
    if not checks.is_traced(bits) and bits < 31:
        raise ValueError(
            f"modulus_bits {bits} has no meaning for light_secagg, whose sums are "
            "modulo 2^31 - 1; leave it out or choose another secure_sum"
        )
    code = smpc.lightsecagg.Code(
        size, _least_reports(config, sampler), int(config.corrupt_share * size)
    )
    return smpc.light_secagg(code, max_abs, **options)


def _mask_graph(config: Config, sampler: base.ClientSampler) -> smpc.graphs.Graph:
    size = sampler.max_cohort
    if config.mask_graph == "k_regular":
        if config.mask_threshold is not None or config.sampler == "poisson":
            raise ValueError(
                "mask_graph 'k_regular' has its own threshold and needs a cohort whose "
                f"places are all taken; leave out mask_threshold, and sampler "
                f"'{config.sampler}' be 'fixed_size' or 'everyone'"
            )
        return smpc.graphs.k_regular(size, config.corrupt_share, config.dropout_share)
    return smpc.graphs.complete(size, _least_reports(config, sampler))


def _least_reports(config: Config, sampler: base.ClientSampler) -> Any:
    """Without which a masked sum aborts; traced where a traced share is drawn."""
    if config.mask_threshold is not None:
        return config.mask_threshold
    expected = sampler.expected_cohort
    if config.sampler == "fixed_size" and not _may_share(config):
        expected = config.cohort
    least = 2 * expected // 3 + 1
    return least.astype(jnp.int32) if checks.is_traced(least) else int(least)


def _check_share(config: Config, share: Any) -> None:
    checks.probability("cohort_share", share, allow_one=True)
    if checks.is_traced(share) or share == 1:
        return
    if config.sampler != "fixed_size" or not _may_share(config):
        raise ValueError(
            f"cohort_share {share} needs sampler 'fixed_size' and, under pairwise "
            "masks, the complete graph and secure_mode 'identity' or 'ideal', and does "
            "not go with light_secagg; set Config.cohort instead"
        )


def _may_share(config: Config) -> bool:
    """Whether nothing but the cohort's weights depends on how many are drawn."""
    if config.secure_sum == "pairwise_masking":
        return config.secure_mode != "full" and config.mask_graph == "complete"
    return config.secure_sum != "light_secagg"


def _whole_cohort(cohort: float, share: Any) -> Any:
    if checks.is_traced(share):
        return jnp.round(cohort * share)
    size = round(cohort * share)
    if abs(cohort * share - size) > 1e-6:
        raise ValueError(
            f"cohort must be whole for a fixed size, got {cohort} times a share of "
            f"{share}"
        )
    return size


def _cohort_prob(population: int, cohort: float) -> float:
    if cohort > population:
        raise ValueError(
            f"cohort {cohort} is larger than the population {population}; choose at "
            f"most {population}"
        )
    return cohort / population
