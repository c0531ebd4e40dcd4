# %% [markdown]
# # Differential privacy and its budget
#
# Differential privacy (DP) bounds how much a released model can depend on whether a
# single client's data were used; what others' data say about the client it does not
# bound. An epsilon alone says little: this tutorial reads the whole promise, sets a
# budget, and looks at what changes its price.

# %%
import matplotlib.pyplot as plt
import numpy as np
import optax

from ppml_lab import data, dp, federated, models, smpc
from ppml_lab.dp import accounting

NUM_CLIENTS, NUM_ROUNDS, DELTA = 300, 50, 1e-5

# %% [markdown]
# ## What is promised, and to whom
#
# The mechanism clips each client's update to an L2 norm of at most `clip_norm` and adds
# Gaussian noise of `noise_multiplier * clip_norm` to the sum. The sampler draws who
# takes part. Together they state an event, and the event says
#
# - the **privacy unit**: here everything that one client owns, not one row;
# - the **neighbouring relation**: which two data sets an observer should hardly tell
#   apart;
# - what was released, from which an accountant computes epsilon at a delta.

# %%
sampler = federated.poisson(NUM_CLIENTS, sampling_prob=0.2)
mechanism = dp.gaussian(clip_norm=0.5, noise_multiplier=1.5)
event = mechanism.event(sampler, NUM_ROUNDS)
print("unit:", event.privacy_unit)
print("relation:", event.neighboring_relation)
print("population:", event.population)
found = accounting.stated(event, DELTA)
print(f"epsilon {found.epsilon:.2f} at delta {DELTA}, by {found.accountant}")

# %% [markdown]
# Delta is the slack of the bound: roughly, the chance that more than epsilon is
# revealed. It has to be smaller than one over the number of clients: a mechanism that
# publishes one client's data whole, chosen at random, has epsilon 0 and that delta. The
# lab warns of a larger one.
#
# ## The budget over rounds
#
# Every round spends some of the budget. Two accountants bound the sum: Rényi DP (RDP),
# which is quick, and privacy loss distributions (PLD), which are tighter. Both bounds
# hold, and the lower one is stated.

# %%
rounds = [1, 2, 5, 10, 20, 50, 100, 200]
one_round = mechanism.event(sampler, 1)
curves = {
    name: accounting.epsilon_curve(one_round, rounds, DELTA, name)
    for name in ("rdp", "pld")
}
for place, number in enumerate(rounds):
    shown = (f"{name} {curve[place]:.2f}" for name, curve in curves.items())
    print(f"{number:3} rounds:", ", ".join(shown))

# %%
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, curve in curves.items():
    axes.plot(rounds, curve, marker="o", label=name.upper())
axes.set(xlabel="rounds", ylabel=f"epsilon at delta {DELTA}", xlim=0, ylim=0)
_ = axes.legend()

# %% [markdown]
# ## The noise that a budget needs
#
# Calibration turns the question round: which is the smallest noise multiplier for a
# target epsilon in so many rounds? What hurts accuracy is the noise on the **mean**
# update, which is the noise on the sum divided by the expected cohort.


# %%
def noise_for(target: float, sampler, num_rounds: int = NUM_ROUNDS) -> float:
    return accounting.calibrate_noise_multiplier(
        lambda z: dp.gaussian(0.5, z).event(sampler, num_rounds), target, DELTA, "best"
    )


def on_the_mean(noise: float, sampler) -> float:
    return 0.5 * noise / sampler.expected_cohort


for target in (0.5, 1.0, 2.0, 4.0, 8.0):
    noise = noise_for(target, sampler)
    print(
        f"epsilon {target:3g}: noise multiplier {noise:5.2f}, "
        f"{on_the_mean(noise, sampler):.4f} on each coordinate of the mean"
    )

# %% [markdown]
# ## What a larger cohort or population buys
#
# A larger cohort of the same population is sampled with a higher probability, which
# amplifies less, so that the sum needs more noise. The mean needs less all the same. A
# larger population at the same sampling probability needs no more noise on the sum, and
# the mean's noise falls as one over the population: **privacy is cheap in a crowd**.

# %%
for population, sampling_prob in (
    (300, 0.05),
    (300, 0.2),
    (300, 0.8),
    (900, 0.2),
    (9000, 0.2),
):
    other = federated.poisson(population, sampling_prob)
    noise = noise_for(2.0, other)
    print(
        f"{population:4} clients, {other.expected_cohort:4.0f} in a round: "
        f"multiplier {noise:4.2f}, {on_the_mean(noise, other):.5f} on the mean"
    )

# %% [markdown]
# ## Training under a budget
#
# Three hundred clients own four or five digits each. The number of rounds, the clip
# norm and the learning rate are the same in all runs; what changes is the noise.

# %%
digits = data.load("digits")
owners = data.partition.iid(
    np.random.default_rng(0), len(digits.train["y"]), NUM_CLIENTS
)
clients = data.federate(digits.train, owners)
task = models.flax_classification(models.logistic(10), (8, 8, 1))
trainer = federated.local_sgd(task, optax.sgd(0.5), batch_size=5, num_epochs=2)
evaluate = federated.evaluator(task)

for target in (0.5, 4.0, None):
    private = None if target is None else dp.gaussian(0.5, noise_for(target, sampler))
    algorithm = federated.averaging(task, trainer, sampler, mechanism=private)
    _, history = federated.simulate(
        0, algorithm, clients, NUM_ROUNDS, test=digits.test, evaluate=evaluate
    )
    promise = "no privacy" if target is None else f"epsilon {target:g}"
    print(f"{promise}: accuracy {history['accuracy'][-1]:.3f}")

# %% [markdown]
# ## Against whom it holds
#
# `epsilon_public` holds against whoever sees the models of all rounds. `epsilon_server`
# holds against whoever runs the protocol. In *central* DP the server sees each update
# and adds the noise itself, so that nothing protects clients from it; a secure sum
# hides the updates, but whoever adds the noise still knows the sum without it. In
# *local* DP each client adds noise of its own before it sends anything.

# %%
local = dp.local_gaussian(clip_norm=0.5, noise_multiplier=1.5)
for name, private, summed in (
    ("central, clear sum", mechanism, smpc.clear()),
    ("central, secure sum", mechanism, smpc.additive_sharing(num_parties=3)),
    ("local, clear sum", local, smpc.clear()),
):
    algorithm = federated.averaging(
        task, trainer, sampler, mechanism=private, aggregator=summed
    )
    event = algorithm.event(NUM_ROUNDS)
    print(
        f"{name}: {accounting.epsilon_public(event, DELTA):.1f} against the public, "
        f"{accounting.epsilon_server(event, DELTA):.1f} against the server "
        f"({event.neighboring_relation})"
    )

# %% [markdown]
# At equal noise multipliers the local sum carries the noise of all clients and its
# epsilon is still several times larger: nobody is hidden in a crowd. The two promises
# are also under different relations, and epsilons under different relations do not
# compare like for like.
#
# ## What this does not give
#
# The accounting holds for what is emulated: the trusted server clips, samples and
# adds noise as stated. The noise comes from a reproducible generator, so that whoever
# knows the seed can subtract it. Training losses and norms in a history are for the
# researcher and not private, and choosing the best of several runs spends more than one
# run does (`dp.selection`). `own_audit.py` tests such a promise from the outside.
