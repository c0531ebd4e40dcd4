"""Training on shares: the clear result, the stated noise, and refusals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import federated
from ppml_lab.dp import accounting
from ppml_lab.smpc import approximations, private, transcript

BITS, STEPS, CLIP = 16, 8, 2.0


def join(parts):
    rows = list(parts.values())
    return {key: jnp.concatenate([row[key] for row in rows]) for key in ("x", "y")}


def gradient(weights, examples):
    residual = approximations.piecewise_sigmoid(examples["x"] @ weights)
    return examples["x"].T @ (residual - examples["y"])


@pytest.fixture(scope="module")
def parts():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 3)).astype(np.float32)
    x *= np.minimum(1, CLIP / np.linalg.norm(x, axis=1, keepdims=True))
    y = (x[:, 0] > 0).astype(np.float32)
    return {
        name: {"x": x[rows], "y": y[rows]}
        for name, rows in (("a", slice(0, 9)), ("b", slice(9, 24)))
    }


def training(how=None, **options):
    fixed = {"num_steps": STEPS, "learning_rate": 0.5, "num_examples": 24}
    options: dict[str, Any] = fixed | options
    how = how or private.protocol(fraction_bits=BITS, ideal=True)
    return federated.training_on_shares(how, gradient, join, **options)


def in_the_clear(parts, batch=24):
    weights, examples = jnp.zeros(3), join(parts)
    for number in range(STEPS):
        begin = min(number % -(-24 // batch) * batch, 24 - batch)
        rows = {key: leaf[begin : begin + batch] for key, leaf in examples.items()}
        weights = weights - 0.5 / batch * gradient(weights, rows)
    return weights


@pytest.mark.parametrize("batch", [24, 8, 9])
def test_without_noise_it_is_training_on_pooled_data(parts, batch):
    train = jax.jit(training(batch_size=batch).train)
    found = train(jax.random.key(0), jnp.zeros(3), parts)
    clear = in_the_clear(parts, batch)
    assert np.abs(found - clear).max() < STEPS * 4 * 2.0**-BITS
    assert np.abs(clear).max() > 0.1


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 9},
        pytest.param({"batch_size": 8}, marks=pytest.mark.exhaustive),
        {"noise_multiplier": 3.0, "clip_norm": CLIP, "dimension": 3},
    ],
)
def test_the_twin_trains_floats_without_noise(parts, options):
    found = training(**options).in_the_clear(jnp.zeros(3, jnp.bfloat16), parts)
    clear = in_the_clear(parts, options.get("batch_size", 24))
    np.testing.assert_allclose(found, clear, rtol=1e-5)


def test_the_twin_compares_sizes_as_the_training_does(parts):
    with pytest.raises(ValueError, match=r"num_examples is 9, .* shape \[24, 3\]"):
        training(num_examples=9).in_the_clear(jnp.zeros(3), parts)


@pytest.mark.exhaustive  # each operation: smpc/test_private
def test_shares_of_all_parties_train_to_the_same_bits(parts):
    full = private.protocol(fraction_bits=BITS)
    found = [
        jax.jit(training(how, num_steps=2).train)(
            jax.random.key(1), jnp.zeros(3), parts
        )
        for how in (None, full)
    ]
    np.testing.assert_array_equal(*found)


def test_each_step_is_priced_and_so_is_noise(parts):
    def sent(**options):
        train = training(**options).train
        return transcript.priced(train, jax.random.key(0), jnp.zeros(3), parts)

    plain, longer = sent(), sent(num_steps=2 * STEPS)
    assert longer.sent_bits(0, "step") == 2 * plain.sent_bits(0, "step") > 0
    # Each owner sends a word of 4 numbers a row to two parties, and four seeds.
    assert plain.sent_bits("a", "share") == 9 * 4 * 2 * 64 + 4 * 256
    # Both at once, then the steps, then the opening.
    assert plain.num_rounds("share") == 1
    assert plain.num_rounds() == plain.num_rounds("step") + 2
    noisy = sent(noise_multiplier=1.0, clip_norm=CLIP, num_honest=2, dimension=3)
    # Each party shares 3 coordinates with two others for every step, before the first.
    once = 3 * 64 + 3 * 256
    assert noisy.sent_bits(1, "step/noise", offline=True) == STEPS * once
    assert noisy.sent_bits(scope="step/noise") == 0
    assert noisy.num_rounds() == plain.num_rounds()
    assert noisy.sent_bits("a") == plain.sent_bits("a")


def test_noise_has_the_stated_stddev_after_one_step(parts):
    made = training(
        num_steps=1, noise_multiplier=3.0, clip_norm=CLIP, num_honest=2, dimension=3
    )
    # Two parties' noise suffices, and three add theirs.
    assert made.noise_stddev == pytest.approx(3.0 * CLIP * np.sqrt(3 / 2))
    keys = jax.random.split(jax.random.key(0), 4096)
    train = jax.jit(
        lambda keys: jax.lax.map(
            lambda key: made.train(key, jnp.zeros(3), parts), keys, batch_size=256
        )
    )
    noise = (
        train(keys) - training(num_steps=1).train(keys[0], jnp.zeros(3), parts)
    ) / (0.5 / 24)
    spread = float(np.std(noise))
    # Of 12,288 draws the spread is known within 0.64% (one standard error).
    assert spread == pytest.approx(made.noise_stddev, rel=0.03)
    assert spread != pytest.approx(3.0 * CLIP, rel=0.1)
    assert abs(float(np.mean(noise))) < 4 * made.noise_stddev / np.sqrt(noise.size)
    correlation = jnp.corrcoef(noise.T)
    assert jnp.abs(correlation - jnp.eye(3)).max() < 0.08


def test_epsilon_counts_fixed_point_and_rises_with_steps(parts):
    def epsilon(how=None, **options):
        made = training(
            how, noise_multiplier=4.0, clip_norm=CLIP, dimension=3, **options
        )
        return accounting.epsilon(made.privacy_event, 1e-3)

    coarse = private.protocol(fraction_bits=4, ideal=True)
    assert epsilon(coarse) > 1.05 * epsilon()
    assert epsilon(num_steps=4 * STEPS) > 1.9 * epsilon()
    assert training().privacy_event.privacy_unit is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"batch_size": 25}, "batch_size must be from 1 to num_examples = 24"),
        ({"noise_multiplier": 1.0}, "clip_norm is needed"),
        ({"noise_multiplier": 1.0, "clip_norm": 1.0}, "dimension"),
        (
            {"noise_multiplier": 1.0, "clip_norm": 1.0, "batch_size": 8},
            "leave batch_size out",
        ),
        ({"num_honest": 4}, "num_honest must lie in .*, got 4"),
        # Of three replicated parties two reconstruct: they leave one out.
        ({"num_honest": 1}, r"num_honest must lie in \[2, 3\], got 1; .* reconstruct"),
        ({"clip_norm": float("nan")}, "clip_norm must be positive"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        training(**options)


@pytest.mark.parametrize(
    ("how", "least"),
    [
        (private.protocol(ideal=True), 2),
        (private.protocol("additive", num_parties=3, ideal=True), 1),
        (private.protocol("additive", num_parties=5, ideal=True), 1),
    ],
)
def test_noise_suffices_against_those_who_cannot_reconstruct(how, least):
    """Of as many parties, by default, as the largest harmless coalition leaves out."""
    made = training(how, noise_multiplier=3.0, clip_norm=CLIP, dimension=3)
    stddev = 3.0 * CLIP * np.sqrt(how.scheme.num_parties / least)
    assert made.noise_stddev == pytest.approx(stddev)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimension": 1}, "dimension is 1, but the parameters have 3 coordinates"),
        ({"dimension": 4}, r"dimension is 4, but .* build .* with dimension=3"),
        ({"num_examples": 1000}, r"num_examples is 1000, .*\['x'\] .* \[24, 3\]"),
        ({"num_examples": 9}, r"num_examples is 9, .* shape \[24, 3\]"),
    ],
)
def test_what_was_told_is_compared_with_what_comes(parts, options, message):
    noisy = {"noise_multiplier": 1.0, "clip_norm": CLIP, "dimension": 3}
    train = training(**(noisy | options)).train
    with pytest.raises(ValueError, match=message):
        train(jax.random.key(0), jnp.zeros(3), parts)


def test_a_gradient_that_would_be_spread_over_the_parameters_is_refused(parts):
    """Each coordinate would move by it, and the sum by more than the clip norm."""
    made = federated.training_on_shares(
        private.protocol(ideal=True),
        lambda params, examples: jnp.sum(examples["y"])[None],
        join,
        num_steps=1,
        learning_rate=1.0,
        num_examples=24,
    )
    with pytest.raises(
        ValueError, match=r"gradient must return the sum .*shapes of params"
    ):
        made.train(jax.random.key(0), jnp.zeros(3), parts)
