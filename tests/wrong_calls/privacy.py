"""Good calls of dp, smpc and audit."""

import jax.numpy as jnp
import numpy as np

from ppml_lab import audit, dp, federated, smpc
from ppml_lab.dp import accounting, events, ledger, selection

from . import parts
from .values import ANY, FLOATS, INF, SEED, ZERO, good

DP = {
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
MECHANISMS = {
    "no_privacy": dp.no_privacy(),
    "gaussian": parts.CENTRAL,
    "adaptive_gaussian": dp.adaptive_gaussian(0.5, 2.0, 100.0),
    "scheduled_gaussian": dp.scheduled_gaussian(0.5, 2.0),
    "local_gaussian": dp.local_gaussian(0.5, 2.0),
    "local_laplace": dp.local_laplace(0.5, 2.0),
    "randomised_response": dp.randomised_response(0.5, 2.0),
}
FIELDS = {
    f"{name}.event": good(
        mechanism.event, sampler=parts.SAMPLER, num_releases=3, sums=None
    )
    for name, mechanism in MECHANISMS.items()
}
MAY_BE = {"max_abs": ("None",)}
"""Then the mechanism's own bound is taken."""
SUMS = {"max_abs": 1.0, "scale": 16.0, "rounding": "nearest", "wraps": False}
SMPC = {
    "fixed_point": good(
        smpc.fixed_point,
        {"bits": ("None",)},
        num_summands=3,
        max_abs=1.0,
        scale=16.0,
        rounding="nearest",
        ring=smpc.ring.Z32,
        bits=16,
        wraps=False,
    ),
    "bits_needed": good(smpc.bits_needed, num_summands=3, max_abs=1.0, scale=16.0),
    "headroom": good(smpc.headroom, num_summands=3, max_abs=1.0, scale=16.0, bits=16),
    "largest_scale": good(smpc.largest_scale, num_summands=3, max_abs=1.0, bits=16),
    "power_of_two": good(smpc.power_of_two, {"exponent": ("0", "-1")}, exponent=3),
    "additive_sharing": good(
        smpc.additive_sharing,
        MAY_BE | {"bits": ("None",)},
        num_parties=3,
        max_clients=5,
        bits=32,
        mode="full",
        **SUMS,
    ),
    "pairwise_masking": good(
        smpc.pairwise_masking,
        MAY_BE | {"bits": ("None",)},
        graph=parts.GRAPH,
        bits=32,
        mode="full",
        **SUMS,
    ),
    "light_secagg": good(
        smpc.light_secagg, MAY_BE, code=parts.CODE, mode="full", **SUMS
    ),
    "graphs.complete": good(
        smpc.graphs.complete, {"threshold": ("None",)}, num_clients=5, threshold=3
    ),
    "graphs.k_regular": good(
        smpc.graphs.k_regular,
        {"corrupt_share": ("0",), "dropout_share": ("0",)},
        num_clients=100,
        corrupt_share=0.1,
        dropout_share=0.1,
        semi_malicious=False,
        correctness_bits=10,
        security_bits=10,
    ),
    "cost.modulus_bits": good(smpc.cost.modulus_bits, num_clients=5, input_bits=8),
    "cost.closed_form_bits": good(
        smpc.cost.closed_form_bits,
        num_holders=5,
        dimension=10,
        word_bits=16,
        key_bits=8,
        share_bits=8,
    ),
    "cost.bonawitz": good(
        smpc.cost.bonawitz,
        {"num_dropped": ("0",)},
        graph=parts.GRAPH,
        dimension=10,
        word_bits=16,
        num_dropped=1,
        key_bits=8,
        share_bits=8,
    ),
    "cost.additive_sharing": good(
        smpc.cost.additive_sharing,
        num_parties=3,
        dimension=10,
        word_bits=16,
        num_clients=5,
        compressed=True,
        seed_bits=8,
    ),
    "cost.light_secagg": good(
        smpc.cost.light_secagg,
        {"num_dropped": ("0",), "privacy": ("0",)},
        num_clients=5,
        surviving=3,
        privacy=1,
        dimension=10,
        word_bits=16,
        num_dropped=1,
    ),
    **{
        f"cost.{name}": good(
            getattr(smpc.cost, name),
            {"messages": ("()",)},
            messages=parts.MESSAGES,
            party="client",
        )
        for name in ("sent_bits", "received_bits", "by_message")
    },
    **{
        f"cost.{name}": good(
            getattr(smpc.cost, name), {"messages": ("()",)}, messages=parts.MESSAGES
        )
        for name in ("num_rounds", "traffic")
    },
    "cost.expansion": good(
        smpc.cost.expansion,
        {"client_bits": ("()", "0")},
        client_bits=100,
        dimension=10,
        input_bits=8,
    ),
    "cost.seconds": good(
        smpc.cost.seconds,
        {"messages": ("()",)},
        messages=parts.MESSAGES,
        links=smpc.network.LAN,
        party="client",
    ),
    "operations.of_masked_sum": good(
        smpc.operations.of_masked_sum,
        {"num_dropped": ("0",)},
        graph=parts.GRAPH,
        dimension=10,
        num_dropped=1,
    ),
    "network.seconds": good(
        smpc.network.seconds,
        {"busiest_bits": ("0",), "exchanges": ("0",), "round_trips": ("0",)},
        busiest_bits=100,
        network=smpc.network.LAN,
        exchanges=1,
        round_trips=1,
    ),
    "lightsecagg.field_of_sum": good(
        smpc.lightsecagg.field_of_sum, num_clients=5, input_bits=8
    ),
    "sharing.additive": good(
        smpc.sharing.additive,
        num_parties=3,
        ring=smpc.ring.Z32,
        scale=1.0,
        ideal=False,
    ),
    "sharing.replicated": good(
        smpc.sharing.replicated, ring=smpc.ring.Z32, scale=1.0, ideal=False
    ),
    "shamir.shamir": good(
        smpc.shamir.shamir,
        threshold=2,
        num_parties=5,
        field=smpc.field.F31,
        scale=1.0,
    ),
}
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
        subject=audit.of_mechanism(
            dp.gaussian(0.5, 2.0), federated.poisson(audit.worlds.NUM_ROWS, 0.5), 2
        ),
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
    "of_shared_training": good(
        audit.of_shared_training,
        {},
        False,
        protocol=parts.PROTOCOL,
        clip_norm=0.5,
        noise_multiplier=2.0,
        num_steps=2,
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
    "many_runs": good(audit.many_runs, run=lambda key, included: key, width=1),
}
