# %% [markdown]
# # Audit your own training
#
# An accountant says how much a training leaks **at most**, if the code does what the
# claim describes. An audit attacks the code as it is and says how much it leaks **at
# least**. Where the lower number is above the upper one, code or claim are wrong. This
# tutorial audits a training in five lines, and finds a bug in it.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from ppml_lab import audit, data
from ppml_lab.dp import accounting

# %% [markdown]
# ## A training of one's own
#
# Noisy gradient descent (DP-SGD on all rows), as anybody writes it. Nothing of it has
# to be the lab's: any function of a key and of rows will do, and with `width=None` one
# in NumPy or PyTorch.

# %%
CLIP, NOISE, STEPS = 1.0, 6.0, 10
examples = {name: rows[:50] for name, rows in data.load("digits").train.items()}


def losses(weights, rows):
    logits = rows["x"].reshape(-1, 64) @ weights
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), rows["y"][:, None], 1)[:, 0]


def clipped_sum(weights, rows):
    def gradient(x, y):
        row = {"x": x[None], "y": y[None]}
        return jax.grad(lambda weights: losses(weights, row)[0])(weights)

    each = jax.vmap(gradient)(rows["x"], rows["y"])
    norms = jnp.sqrt(jnp.sum(each**2, axis=(1, 2), keepdims=True))
    return jnp.sum(each * jnp.minimum(1, CLIP / norms), axis=0)


def train(key, rows):
    def step(weights, key):
        noise = NOISE * CLIP * jax.random.normal(key, weights.shape)
        return weights - 0.1 * (clipped_sum(weights, rows) + noise), None

    return jax.lax.scan(step, jnp.zeros((64, 10)), jax.random.split(key, STEPS))[0]


# %% [markdown]
# ## The claim
#
# A step releases a sum to which one row adds at most `CLIP`, under noise of
# `NOISE * CLIP`. Ten of these are an event, and an accountant turns it into epsilon.

# %%
DELTA = 1e-5
claim = audit.tradeoff.sampled_gaussian(NOISE, sampling_prob=1.0, num_rounds=STEPS)
at_most = accounting.stated(claim, DELTA).epsilon
print(f"claimed: epsilon {at_most:.2f} at most, at delta {DELTA}")

# %% [markdown]
# ## The audit
#
# Two hundred runs train with one row more, the canary, and two hundred without it. The
# score is high where the model fits the canary well. Whoever tells the two kinds of
# runs apart by the score too often for the claimed epsilon refutes the claim. The
# canary here lies in the direction in which the other rows vary least, with a label of
# its own, so that little else moves the model there.

# %%
canary = audit.canaries.rarest_direction(examples, norm=8.0, label=9)


def score(weights, rows):
    return -losses(weights, rows)


def audited(train):
    found = audit.training(
        train, examples, canary, score=score, num_runs=200, delta=DELTA
    )
    print(
        f"epsilon {found.bound.epsilon:.2f} at least; 200 runs a side can show "
        f"{found.ceiling:.2f}; area under the attack's ROC curve {found.auc.value:.2f}"
    )
    return found


right = audited(train)

# %% [markdown]
# The bound is below the claim, so that the audit does not refute it. That proves
# nothing: the attack tells the runs apart a little better than a coin (an area above
# 0.5), and a better attack may exist. The bound holds with a confidence of 95% for any
# training, whatever its code.
#
# ## A bug
#
# Papers often state DP-SGD with a *mean* gradient, whose noise is divided by the number
# of rows. Here somebody copied that noise and kept the sum. The code runs, learns, and
# prints the same claim.


# %%
def wrong_train(key, rows):
    def step(weights, key):
        noise = NOISE * CLIP * jax.random.normal(key, weights.shape)
        noise /= len(rows["y"])
        return weights - 0.1 * (clipped_sum(weights, rows) + noise), None

    return jax.lax.scan(step, jnp.zeros((64, 10)), jax.random.split(key, STEPS))[0]


wrong = audited(wrong_train)
if wrong.bound.epsilon > at_most:
    print(f"which refutes the claim of {at_most:.2f}")

# %%
figure, panels = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for axes, found, name in zip(panels, (right, wrong), ("right", "wrong"), strict=True):
    both = np.concatenate([found.scores_in, found.scores_out])
    bins = np.linspace(both.min(), both.max(), 30).tolist()
    axes.hist(found.scores_in, bins, alpha=0.6, label="with the canary")
    axes.hist(found.scores_out, bins, alpha=0.6, label="without")
    axes.set(title=f"{name} noise", xlabel="score", ylabel="runs")
_ = panels[0].legend()

# %% [markdown]
# ## A training that takes hours
#
# Four hundred trainings are too many for a large model. `audit.training_in_one_run`
# plants many canaries in a single training, each by a fair coin of its own, and guesses
# which were in. It shows less: with *m* canaries hardly more than log(*m*).

# %%
rng = np.random.default_rng(0)
many = {
    "x": np.float32(8 * rng.normal(size=(400, 8, 8, 1)) / 8),
    "y": rng.integers(0, 10, 400).astype(examples["y"].dtype),
}
for name, function in (("right", train), ("wrong", wrong_train)):
    once = audit.training_in_one_run(function, examples, many, score=score, delta=DELTA)
    print(f"{name}: epsilon {once.bound.epsilon:.2f} at least, by one run")

# %% [markdown]
# ## What this does not give
#
# The attacker here chooses the canary and sees the last model alone. The claim holds
# against whoever sees the model after every step, so that a stronger attack may find
# more, and an audit that finds nothing proves nothing. For mechanisms and trainings of
# the lab's types `audit.check_mechanism` looks at every step
# (`ppml_lab/audit/README.md`).
