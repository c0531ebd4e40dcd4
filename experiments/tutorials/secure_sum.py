# %% [markdown]
# # Secure aggregation
#
# The server of federated averaging needs the sum of the updates, and no single one.
# Secure aggregation gives it the sum alone. This tutorial runs one training under three
# sums, lets clients drop out until a round aborts, prices the protocols, and adds
# differential privacy.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ppml_lab import data, dp, federated, models, random, smpc
from ppml_lab.dp import accounting

# %% [markdown]
# ## The idea
#
# An additive sharing splits a number into random summands modulo $2^{32}$, one for each
# server. Any two of three look random; servers add the shares that they hold, and only
# the sums of all clients are put together.

# %%
scheme = smpc.sharing.additive(num_parties=3)
values = {"Ada": 20, "Bo": 22}
held = {
    name: smpc.sharing.share(
        random.seed(jax.random.key(place)), jnp.uint32([value]), scheme
    ).shares[:, 0]
    for place, (name, value) in enumerate(values.items())
}
for name, shares in held.items():
    print(f"{name} sends the three servers", shares)
totals = held["Ada"] + held["Bo"]
print("each server's total:", totals, "- all totals together:", jnp.sum(totals))

# %% [markdown]
# ## One training under three sums
#
# Ten clients of a hundred train in a round, and each drops out before its upload with a
# probability of 30%. Updates are floats and sums are modular integers: a coordinate is
# rounded to a multiple of `1 / scale` and needs a bound, `max_abs` here, or the clip
# norm where a mechanism clips.
#
# - `clear`: one server sees every update.
# - `additive_sharing`: three servers; they see nothing unless all three collude.
# - `pairwise_masking`: one server. Each pair of clients agrees on a mask that one adds
#   and the other subtracts, so that the masks cancel in the sum. A client that drops
#   out leaves its masks in the sum; the server removes them with the shares of the
#   client's secrets that `threshold` other clients open.

# %%
NUM_CLIENTS, COHORT, NUM_ROUNDS = 100, 10, 30
digits = data.load("digits")
owners = data.partition.iid(
    np.random.default_rng(0), len(digits.train["y"]), NUM_CLIENTS
)
clients = data.federate(digits.train, owners)
task = models.flax_classification(models.logistic(10), (8, 8, 1))
trainer = federated.local_sgd(task, optax.sgd(0.5), batch_size=5, num_epochs=1)
sampler = federated.fixed_size(NUM_CLIENTS, COHORT)
evaluate = federated.evaluator(task)


def train(summed):
    algorithm = federated.averaging(
        task, trainer, sampler, aggregator=summed, dropout_prob=0.3
    )
    state, history = federated.simulate(
        0, algorithm, clients, NUM_ROUNDS, test=digits.test, evaluate=evaluate
    )
    return state.params, history


graph = smpc.graphs.complete(COHORT, threshold=3)
found = {
    "clear": train(smpc.clear()),
    "additive sharing": train(smpc.additive_sharing(num_parties=3, max_abs=4.0)),
    "pairwise masking": train(smpc.pairwise_masking(graph, max_abs=4.0)),
}


def apart(one, other) -> float:
    differences = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), one, other)
    return float(max(jax.tree.leaves(differences)))


shared, _ = found["additive sharing"]
for name, (params, history) in found.items():
    print(
        f"{name}: accuracy {history['accuracy'][-1]:.3f}, parameters within "
        f"{apart(params, shared):.1e} of those of additive sharing"
    )

# %% [markdown]
# The two secure sums agree to the bit, whoever drops out, for both add the same
# integers. They differ from the clear sum by rounding alone.
#
# ## Aborts
#
# Fewer clients than the threshold cannot open a secret. Where too few stay, the round
# **aborts**: it has no sum, `num_reports` is 0, and the model stays as it was. A higher
# threshold withstands more clients who collude with the server, and fewer drop-outs.

# %%
# mode="identity" adds the integers alone: the same sums, aborts and costs, sooner.
strict = smpc.pairwise_masking(
    smpc.graphs.complete(COHORT, threshold=7), max_abs=4.0, mode="identity"
)
found["threshold 7"] = train(strict)
for name in ("pairwise masking", "threshold 7"):
    _, history = found[name]
    reports = history["num_reports"]
    print(
        f"{name}: {np.sum(reports == 0)} of {NUM_ROUNDS} rounds aborted, "
        f"{reports[reports > 0].mean():.1f} reports in the others, "
        f"accuracy {history['accuracy'][-1]:.3f}"
    )

# %% [markdown]
# ## What the protocols cost
#
# Costs are closed forms, in exact integers, so that no run is needed: bytes that one
# client sends, bytes at the busiest server, rounds of messages that wait for each
# other, and seconds on the lab's wide-area network (352 Mbit/s, 40 ms round trip). One
# client in ten drops out, and graph and code are made to survive that and one client in
# ten who colludes with the server.

# %%
cost = smpc.cost


def protocols(num_clients: int, dimension: int):
    bits = cost.modulus_bits(num_clients, 16)
    dropped = num_clients // 10
    complete = smpc.graphs.complete(num_clients)
    yield (
        "additive sharing",
        cost.additive_sharing(3, dimension, bits, num_clients=num_clients - dropped),
    )
    yield (
        "pairwise masking",
        cost.bonawitz(complete, dimension, bits, num_dropped=dropped),
    )
    if num_clients >= 1000:
        sparse = smpc.graphs.k_regular(num_clients, 0.1, 0.1)
        yield (
            f"pairwise masking, {sparse.degree} neighbours",
            cost.bonawitz(sparse, dimension, bits, num_dropped=dropped),
        )
    yield (
        "LightSecAgg",
        cost.light_secagg(
            num_clients,
            num_clients - dropped,
            num_clients // 10,
            dimension,
            32,
            num_dropped=dropped,
        ),
    )


for num_clients, dimension in ((100, 10_000), (1000, 10_000), (1000, 1_000_000)):
    print(f"{num_clients:,} clients, {dimension:,} coordinates")
    for name, messages in protocols(num_clients, dimension):
        sent = cost.traffic(messages)
        seconds = cost.seconds(messages, smpc.network.WAN)
        print(
            f"  {name}: {sent.uplink_bytes / 1e3:,.1f} kB up, server "
            f"{sent.server_bytes / 1e6:,.1f} MB, {sent.num_rounds} rounds, "
            f"{seconds:.2f} s"
        )

# %% [markdown]
# The price of masks is in keys and shares for each neighbour, which a long vector
# outweighs. `python -m ppml_lab cost` prints such a table at the prompt.
#
# ## Differential privacy under a secure sum
#
# A secure sum hides the updates and not what their sum reveals; differential privacy
# (DP) bounds that. Central DP clips at the clients and adds noise to the sum. Not every
# combination keeps its promise, and the lab refuses the others when they are built.

# %%
mechanism = dp.gaussian(clip_norm=0.5, noise_multiplier=1.0)
masked = smpc.pairwise_masking(smpc.graphs.complete(COHORT), mode="identity")
tries = {
    "masks, fixed cohorts": (sampler, masked),
    "masks, Poisson cohorts": (
        federated.poisson(NUM_CLIENTS, COHORT / NUM_CLIENTS),
        smpc.pairwise_masking(smpc.graphs.complete(32, 4), mode="identity"),
    ),
    "shares, Poisson cohorts": (
        federated.poisson(NUM_CLIENTS, COHORT / NUM_CLIENTS),
        smpc.additive_sharing(num_parties=3),
    ),
}
for name, (cohorts, summed) in tries.items():
    try:
        algorithm = federated.averaging(
            task, trainer, cohorts, mechanism=mechanism, aggregator=summed
        )
    except ValueError as error:
        print(f"{name}: refused: {error}")
        continue
    event = algorithm.event(NUM_ROUNDS)
    print(
        f"{name}: epsilon {accounting.epsilon_public(event, 1e-4):.1f} "
        f"for {event.neighboring_relation}"
    )

# %% [markdown]
# Under Poisson sampling one client more or less changes how many report, and so may
# decide whether a masked sum aborts, which noise does not hide. In cohorts of a fixed
# size nobody's place is lost. Its relation replaces a client by another and its bound
# is larger, for less is proven (`ppml_lab/dp/FIXED_SIZE.md`).
#
# ## What this does not give
#
# Rounding, masks, shares, drop-outs, aborts, bytes and rounds are those of the
# protocols. Nothing is sent or encrypted, all parties live in one process, the
# generator is not cryptographic, and nobody cheats: the guarantees are against servers
# and clients who follow the protocol and look at what they get. Whoever adds central
# noise is trusted not to look at the sum before. `on_shares.py` computes more than
# sums.
