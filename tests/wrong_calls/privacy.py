"""Good calls of dp."""

import jax.numpy as jnp

from ppml_lab import dp
from ppml_lab.dp import accounting, events, ledger, selection, strategies

from . import parts
from .values import FLOATS, INF, ZERO, good

DP = {
    "additive": good(
        dp.additive,
        {"norm_bound": ("inf",), "event": ("a function",)},
        clip=lambda update: update,
        noise=lambda key, like, sensitivity: like,
        event=lambda change: events.gaussian(2.0 / change),
        norm_bound=0.5,
        privacy_unit="client",
    ),
    "gaussian": good(
        dp.gaussian,
        INF | ZERO,
        clip_norm=0.5,
        noise_multiplier=2.0,
        privacy_unit="client",
        rule="flat",
    ),
    "adaptive_gaussian": good(
        dp.adaptive_gaussian,
        ZERO
        | {
            "target_quantile": ("0",),
            "min_clip_norm": ("None",),
            "max_clip_norm": ("None",),
        },
        initial_clip_norm=0.5,
        noise_multiplier=2.0,
        expected_contributions=100.0,
        target_quantile=0.5,
        clip_learning_rate=0.2,
        count_weight=0.1,
        min_clip_norm=0.1,
        max_clip_norm=10.0,
        privacy_unit="client",
    ),
    "clip_by_global_norm": good(
        dp.clip_by_global_norm,
        INF | {"update": ("float32 nan", *FLOATS, "2-d")},
        update={"w": jnp.ones(3)},
        clip_norm=0.5,
    ),
    "clipped_gradient": good(
        dp.clipped_gradient,
        {"method": ("a function",)},
        loss=parts.TASK.loss,
        mechanism=parts.EXAMPLES,
        method="auto",
        microbatch_size=None,
    ),
    "clipped_total": good(
        dp.clipped_total,
        {"method": ("a function",)},
        loss=parts.TASK.loss,
        mechanism=parts.EXAMPLES,
        method="auto",
        microbatch_size=4,
    ),
    "correlated_gaussian": good(
        dp.correlated_gaussian,
        INF | ZERO | {"subtracted": ("0", "1e-50")},
        clip_norm=0.5,
        noise_multiplier=2.0,
        subtracted=(0.5, 0.25),
        privacy_unit="client",
        rule="flat",
    ),
    "strategies.square_root": good(strategies.square_root, width=4),
    "strategies.column": good(
        strategies.column,
        {"subtracted": ("()", "[1]")},
        subtracted=(0.5,),
        num_rounds=3,
    ),
    "strategies.sensitivity": good(
        strategies.sensitivity,
        {"column": ("[1]", "two floats")},
        column=strategies.column((0.5,), 3),
        pattern=parts.SAMPLER.participation(3),
    ),
    "example_keys": good(dp.example_keys, {"n": ("0",)}, key=parts.KEY, n=3),
    "live": good(dp.live, mechanism=parts.CENTRAL, sampler=parts.SAMPLER, delta=1e-3),
    "local_gaussian": good(
        dp.local_gaussian, INF | ZERO, clip_norm=0.5, noise_multiplier=2.0
    ),
    "local_laplace": good(dp.local_laplace, clip_norm=0.5, noise_multiplier=2.0),
    "per_example_method": good(
        dp.per_example_method,
        {"name": ("a function",)},
        loss=parts.TASK.loss,
        name="auto",
    ),
    "randomised_response": good(
        dp.randomised_response,
        {"target_epsilon": ("inf",)},
        max_abs=0.5,
        target_epsilon=2.0,
    ),
    "scheduled_gaussian": good(
        dp.scheduled_gaussian,
        {"noise_schedule": ("0",), "clip_norm": ("inf",)},
        clip_norm=0.5,
        noise_schedule=2.0,
        privacy_unit="client",
        rule="flat",
    ),
    "summed_gradient": good(dp.summed_gradient, loss=parts.TASK.loss),
    "accounting.epsilon": good(
        accounting.epsilon, privacy_event=parts.EVENT, delta=1e-3, accountant="rdp"
    ),
    "accounting.epsilons": good(
        accounting.epsilons,
        {"noise_multipliers": ("()", "[1]", "{}", "two floats")},
        noise_multipliers=[1.0],
        sampling_prob=0.5,
        num_steps=3,
        delta=1e-3,
        accountant="rdp",
    ),
    "accounting.epsilon_curve": good(
        accounting.epsilon_curve,
        {"rounds": ("()", "[1]", "{}")},
        privacy_event=parts.EVENT,
        rounds=[1, 2],
        delta=1e-3,
        accountant="rdp",
    ),
    "accounting.delta_curve": good(
        accounting.delta_curve,
        {"epsilons": ("()", "[1]", "{}", "two floats")},
        privacy_event=parts.EVENT,
        epsilons=[1.0],
        accountant="rdp",
    ),
    "accounting.calibrate_noise_multiplier": good(
        accounting.calibrate_noise_multiplier,
        {"target_epsilon": ("inf",)},
        make_event=lambda noise: dp.gaussian(0.5, noise).event(parts.SAMPLER, 3),
        target_epsilon=1.0,
        delta=1e-3,
        accountant="rdp",
    ),
    **{
        f"accounting.{name}": good(
            getattr(accounting, name), privacy_event=parts.EVENT, delta=1e-3
        )
        for name in (
            "stated",
            "epsilon_public",
            "epsilon_server",
            "cut_share",
            "cut_note",
            "epsilon_from_below",
            "old_conversion_epsilon",
        )
    },
    "accounting.supports": good(
        accounting.supports, privacy_event=parts.EVENT, accountant="rdp"
    ),
    "accounting.against_server": good(
        accounting.against_server, privacy_event=parts.EVENT
    ),
    "accounting.rdp_curve": good(accounting.rdp_curve, privacy_event=parts.EVENT),
    "events.gaussian": good(events.gaussian, ZERO, noise_multiplier=2.0),
    "events.laplace": good(events.laplace, ZERO, noise_multiplier=2.0),
    "events.randomised_response": good(
        events.randomised_response, random_prob=0.5, num_values=3
    ),
    "events.poisson": good(events.poisson, sampling_prob=0.5, event=parts.ONE),
    "events.fixed_size": good(
        events.fixed_size, population=10, cohort_size=3, event=parts.ONE
    ),
    "events.participating": good(
        events.participating, participation_prob=0.5, event=parts.ONE
    ),
    "events.compose": good(events.compose, event=parts.ONE, num_rounds=3),
    "events.failing": good(
        events.failing, {"probability": ("0",)}, event=parts.ONE, probability=1e-9
    ),
    "events.on_coordinates": good(events.on_coordinates, event=parts.ONE, dimension=10),
    "ledger.add": good(
        ledger.add,
        {"name": ("'1'",)},
        ledger=ledger.Ledger(),
        name="run",
        privacy_event=parts.EVENT,
        times=1,
    ),
    "ledger.report": good(
        ledger.report,
        ledger=ledger.add(ledger.Ledger(), "run", parts.EVENT),
        delta=1e-3,
    ),
    "selection.negative_binomial": good(
        selection.negative_binomial,
        {"shape": ("0",)},
        mean=3.0,
        shape=1.0,
    ),
    "selection.sweep_costs": good(
        selection.sweep_costs, privacy_event=parts.EVENT, num_runs=3, delta=1e-3
    ),
    "selection.epsilon": good(
        selection.epsilon,
        privacy_event=parts.EVENT,
        delta=1e-3,
        stopping=selection.geometric(3.0),
    ),
}
