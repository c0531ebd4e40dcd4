# %% [markdown]
# # Inference and training on shares
#
# A hospital has images, a company has a model, and neither shows them to anybody. Both
# split what they have into secret shares for three computing parties. The parties
# compute on shares, and only the result is put together. This tutorial classifies on
# shares, prices that, and trains on the rows of three owners.

# %%
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from ppml_lab import data, federated, models
from ppml_lab.dp import accounting
from ppml_lab.smpc import approximations, network, private, private_costs, transcript

# %% [markdown]
# ## A model, trained in the clear

# %%
digits = data.load("digits")
module = models.MLP((16, 10))
task = models.flax_classification(module, (8, 8, 1))
num_rows = len(digits.train["y"])
state, _ = federated.simulate(
    0,
    federated.central_sgd(
        task, optax.adam(0.01), federated.fixed_size(num_rows, cohort_size=64)
    ),
    data.federate(digits.train, np.arange(num_rows)),
    200,
)
params = state.params
images, labels = digits.test["x"], digits.test["y"]
clear: Any = module.apply(params, images)
print(f"accuracy in the clear {np.mean(np.argmax(clear, 1) == labels):.3f}")

# %% [markdown]
# ## Classifying on shares
#
# Any JAX function runs on shares, operation by operation, and the flax model needs no
# rewriting. With replicated shares each of three parties holds two of three summands,
# and no single party learns anything. Numbers are fixed point: integers modulo
# $2^{64}$ with 16 bits behind the point.

# %%
protocol = private.protocol("replicated", fraction_bits=16)


def classify(params, images, keys):
    shared = (
        private.share(protocol, keys[0], params, owner="company"),
        private.share(protocol, keys[1], images, owner="hospital"),
    )
    logits = private.evaluate(protocol, keys[2], module.apply, *shared)
    return private.reveal(protocol, logits)


FEW = 20
keys = jax.random.split(jax.random.key(1), 3)
logits = jax.jit(classify)(params, images[:FEW], keys)
same = np.argmax(logits, 1) == np.argmax(clear[:FEW], 1)
print(f"{np.sum(same)} of {FEW} images in the class of the clear model")
print(f"logits differ by {np.max(np.abs(logits - clear[:FEW])):.5f} at most")

# %% [markdown]
# ## What that costs, by layer
#
# Bytes are what the busiest party sends for these images; rounds are messages that wait
# for each other; seconds are those of messages alone, on a local network (40 Gbit/s,
# 0.02 ms) and on a wide-area one (352 Mbit/s, 40 ms). Nothing has to run for this.

# %%
for layer in private_costs.by_layer(
    protocol, module.apply, params, images[:FEW], depth=2
):
    print(
        f"{layer.layer}: {layer.online_bytes / 1e3:.1f} kB online, "
        f"{layer.offline_bytes / 1e3:.1f} kB beforehand, {layer.rounds} rounds, "
        f"LAN {1e3 * layer.lan_seconds:.2f} ms, WAN {1e3 * layer.wan_seconds:.0f} ms"
    )

# %% [markdown]
# On the wide-area network nearly all time is latency. `sign`, `from_bit` and `choose`
# are the ReLU, which compares shared numbers bit by bit: it takes more rounds than both
# dense layers.
#
# ## How many bits
#
# `ideal=True` computes the values that all parties together would reconstruct, bit for
# bit, at the speed of integers in the clear. `fraction_bits` may be traced, so that the
# sweep is one compiled program.


# %%
def accuracy_with(bits):
    how = private.protocol("replicated", fraction_bits=bits, ideal=True)
    shared = (
        private.share(how, keys[0], params, owner="company"),
        private.share(how, keys[1], images, owner="hospital"),
    )
    logits = private.reveal(how, private.evaluate(how, keys[2], module.apply, *shared))
    return jnp.mean(jnp.argmax(logits, 1) == labels)


bits = np.arange(2, 18, 2)
accuracies = jax.jit(lambda bits: jax.lax.map(accuracy_with, bits))(bits)
for number, accuracy in zip(bits, accuracies, strict=True):
    print(f"{number:2} fraction bits: accuracy {accuracy:.3f}")

# %%
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
axes.plot(bits, accuracies, marker="o", label="on shares")
axes.axhline(np.mean(np.argmax(clear, 1) == labels), ls="--", c="gray", label="clear")
axes.set(xlabel="fraction bits", ylabel="accuracy", ylim=(0, 1))
_ = axes.legend()

# %% [markdown]
# ## Training on shares
#
# Three hospitals own the rows of breast tumours, and none of them may pool. Logistic
# regression by gradient descent needs products and a sigmoid, here one of straight
# pieces. The owners scale their rows to a norm of at most `CLIP`, which bounds each
# row's gradient; the computing parties can then add noise of their own to each step,
# so that nobody knows all of it. That is central differential privacy (DP) without a
# trusted server, against up to one computing party.

# %%
CLIP, NUM_STEPS, DELTA = 4.0, 30, 1e-4
tumours = data.load("breast_cancer")


def rows(examples) -> dict[str, Any]:
    x = np.concatenate([examples["x"], np.ones((len(examples["x"]), 1))], axis=1)
    x *= np.minimum(1, CLIP / np.linalg.norm(x, axis=1, keepdims=True))
    return {"x": np.float32(x), "y": np.float32(examples["y"])}


train, test = rows(tumours.train), rows(tumours.test)
hospitals = {
    f"hospital {place}": {name: leaf[place::3] for name, leaf in train.items()}
    for place in range(3)
}


def gradient(weights, examples):
    x, y = examples["x"], examples["y"]
    return x.T @ (approximations.piecewise_sigmoid(x @ weights) - y)


def pooled(parts):
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts.values())


def accuracy_of(weights) -> float:
    return float(np.mean((test["x"] @ weights > 0) == (test["y"] > 0.5)))


dimension = train["x"].shape[1]
start, key = jnp.zeros(dimension), jax.random.key(2)
how = private.protocol("replicated", ideal=True)


def training(noise: float) -> federated.SharedTraining:
    return federated.training_on_shares(
        how,
        gradient,
        pooled,
        num_steps=NUM_STEPS,
        learning_rate=1.0,
        num_examples=len(train["y"]),
        clip_norm=CLIP,
        noise_multiplier=noise,
        dimension=dimension,
    )


weights = training(0.0).in_the_clear(start, hospitals)
print(f"pooled in the clear: accuracy {accuracy_of(weights):.3f}")
for target in (np.inf, 1.0):
    noise = accounting.calibrate_noise_multiplier(
        lambda noise: training(noise).privacy_event, target, DELTA, "best"
    )
    on_shares = training(noise)
    weights = jax.jit(on_shares.train)(key, start, hospitals)
    sent = transcript.priced(on_shares.train, key, start, hospitals)
    print(
        f"on shares, epsilon {target:g}: accuracy {accuracy_of(weights):.3f}, "
        f"{max(sent.sent_bits(party) for party in range(3)) / 8e6:.1f} MB online, "
        f"{sent.num_rounds()} rounds, LAN {sent.seconds(network.LAN):.3f} s, "
        f"WAN {sent.seconds(network.WAN):.1f} s"
    )

# %% [markdown]
# The noise costs no round, for the parties share it beforehand.
#
# ## What this does not give
#
# Values, roundings, messages and rounds are those of the protocol, against parties who
# follow it and do not collude: any two of three replicated parties reconstruct
# everything, whatever the noise. One process holds all shares, and the generator is not
# cryptographic. The seconds above are those of messages, not of computing. Without
# noise the opened weights may reveal rows, on shares or not; with noise, epsilon is for
# one row, and takes the means and deviations that standardised the features as public.
