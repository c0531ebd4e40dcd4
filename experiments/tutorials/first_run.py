# %% [markdown]
# # A first federated run
#
# Federated averaging (FedAvg) trains one model on rows that stay with their owners.
# This tutorial deals handwritten digits to twenty clients, once evenly and once so
# that each client knows two digits only, and compares how fast the model learns.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

from ppml_lab import data, federated, models

digits = data.load("digits")
print(len(digits.train["y"]), "train rows,", len(digits.test["y"]), "test rows")

# %% [markdown]
# ## Who owns which rows
#
# A partition gives one owner for each row. `iid` deals rows at random, so that all
# clients have the same distribution; `label_limited` gives every client two classes.

# %%
NUM_CLIENTS = 20
labels = digits.train["y"]
rng = np.random.default_rng(0)
owners = {
    "IID": data.partition.iid(rng, len(labels), NUM_CLIENTS),
    "two digits each": data.partition.label_limited(
        rng, labels, NUM_CLIENTS, labels_per_client=2
    ),
}
for name, ids in owners.items():
    print(f"{name}: client 0 has", np.bincount(labels[ids == 0], minlength=10))

# %% [markdown]
# `data.federate` groups rows by owner and moves them to the device. With rows of your
# own, any user ids will do in place of a partition.

# %%
clients = {name: data.federate(digits.train, ids) for name, ids in owners.items()}
print(clients["IID"])

# %% [markdown]
# ## The algorithm
#
# A task says what is learnt, a trainer what a client does in a round, and a sampler
# who takes part: here five clients of twenty, drawn anew in each round. Each trains
# for two passes over its own rows and sends its update, the local model minus the
# server's. The server adds the mean update to the model.

# %%
task = models.flax_classification(models.logistic(10), (8, 8, 1))
trainer = federated.local_sgd(task, optax.sgd(0.3), batch_size=16, num_epochs=2)
sampler = federated.fixed_size(NUM_CLIENTS, cohort_size=5)
algorithm = federated.averaging(task, trainer, sampler)

# %% [markdown]
# ## Two runs
#
# The first argument of `simulate` is a seed: the same seed gives the same run, and both
# runs here draw the same cohorts. All rounds between two evaluations are one compiled
# program, and the second run uses the first one's.

# %%
NUM_ROUNDS = 60
evaluate = federated.evaluator(task)
states, histories = {}, {}
for name in clients:
    states[name], histories[name] = federated.simulate(
        0,
        algorithm,
        clients[name],
        NUM_ROUNDS,
        test=digits.test,
        evaluate=evaluate,
        eval_every=2,
    )

# %% [markdown]
# A history has one number for each round (`train_loss`, `num_reports`, ...) and one for
# each evaluation (`accuracy`, `loss`, at the rounds `eval_round`).

# %%
TARGET = 0.85
for name, history in histories.items():
    accuracy, rounds = history["accuracy"], history["eval_round"]
    reached = rounds[accuracy >= TARGET]
    when = f"first at {TARGET:.0%} after round {reached[0]}" if len(reached) else "-"
    print(f"{name}: accuracy {accuracy[-1]:.3f} at the end, {when}")

# %%
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, history in histories.items():
    axes.plot(history["eval_round"], history["accuracy"], label=name)
axes.set(xlabel="round", ylabel="test accuracy", ylim=(0, 1))
_ = axes.legend(loc="lower right")

# %% [markdown]
# With two digits each, a client's update pulls the model towards its own digits, and
# the mean of five such updates moves from round to round with the cohort: the curve is
# lower, and it is not smooth.
#
# ## Is the model good for everybody?
#
# The same model on each client's own rows: the mean over clients, and the mean of the
# worst tenth.

# %%
on_clients = federated.client_evaluator(task)
for name in clients:
    each = on_clients(states[name].params, clients[name])
    spread = federated.client_spread(each, clients[name])
    mean, worst = spread["client_accuracy"], spread["client_accuracy_worst_decile"]
    print(f"{name}: {mean:.3f} on average, {worst:.3f} in the worst tenth")

# %% [markdown]
# ## What travels
#
# `cost` states what one client sends and receives in a round, in bytes.

# %%
print(algorithm.cost())
num_parameters = sum(leaf.size for leaf in jax.tree.leaves(states["IID"].params))
print(f"{num_parameters} parameters of 4 bytes")

# %% [markdown]
# ## What this does not give
#
# Rows never leave a client in this protocol, but **nothing here is private**: the
# server sees every update, and an update can reveal the rows it was computed from. In
# the lab all clients live in one process; there is no network. The other tutorials add
# differential privacy (`budget.py`) and secure aggregation (`secure_sum.py`).
