"""Words of a stream are handed out once, by few generators."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import random
from ppml_lab.smpc import (
    comparison,
    private,
    ring,
    scheme,
    sharing,
    streams,
    transcript,
    truncation,
)
from ppml_lab.smpc.field import F31

SEED = jnp.array([5, 6], jnp.uint32)


def words(element):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(element)])


def test_no_word_comes_twice():
    @jax.jit
    def drawn(seed):
        stream = streams.Stream(seed)
        of = [stream.masks, stream.coins, stream.masks]
        rings = [ring.Z64, ring.Z32] * 3
        shapes = [(3,), (1500, 2), (), (0, 4), (2, 700), (5000,)]
        found = [
            draw(how, s) for draw, how, s in zip(of * 2, rings, shapes, strict=True)
        ]
        return found, stream.seeds(4), stream.seed(), stream.masks(F31, (3,))

    found, seeds, seed, of_field = drawn(SEED)
    shapes = [ring.shape_of(element) for element in found]
    assert shapes == [(3,), (1500, 2), (), (0, 4), (2, 700), (5000,)]
    assert of_field.shape == (3,)
    every = np.concatenate([words(element) for element in (*found, seeds, seed)])
    # Of about 12,000 words two are equal by chance once in 60 seeds.
    assert len(np.unique(every)) == len(every)
    assert abs(every.astype(float).mean() / 2**32 - 0.5) < 0.015


def test_coins_do_not_depend_on_masks():
    def coins(seed, size):
        stream = streams.Stream(seed)
        one = stream.coins(ring.Z32, (4,))
        stream.masks(ring.Z64, (size,))
        return one, stream.coins(ring.Z64, (2000,)), stream.seed()

    few, many = (jax.tree.leaves(coins(SEED, size)) for size in (0, 5000))
    for one, other in zip(few, many, strict=True):
        np.testing.assert_array_equal(one, other)


def test_many_draws_take_few_generators(monkeypatch):
    lengths = []

    def drawn(seed, length, first_block):
        lengths.append(length)
        return jnp.zeros(length, jnp.uint32)

    monkeypatch.setattr(random, "words", drawn)

    def draw_all(seed):
        stream = streams.Stream(seed)
        for size in range(1000):
            stream.masks(ring.Z64, (size,))

    jax.eval_shape(draw_all, SEED)
    assert len(lengths) <= 12
    assert sum(lengths) < 2.1 * 1000 * 999


PROTOCOLS = {
    "relu": comparison.relu,
    "max_over": functools.partial(comparison.max_over, axis=0),
    "place_of_max": comparison.place_of_max,
    "msb": functools.partial(truncation.truncate, num_bits=4),
    "exact": functools.partial(truncation.truncate, num_bits=4, method="exact"),
}


@pytest.mark.parametrize("how", [sharing.additive(3), sharing.replicated()])
def test_a_protocol_starts_one_stream_from_its_seed(how, monkeypatch):
    started = []

    start = streams.Stream.__init__

    def counted(self, seed):
        started.append(seed)
        start(self, seed)

    monkeypatch.setattr(streams.Stream, "__init__", counted)
    shape = jax.ShapeDtypeStruct((how.num_parties, 12), jnp.uint32)
    value = scheme.Shared(shape, how._replace(scale=16.0))
    for name, protocol in PROTOCOLS.items():
        started.clear()
        jax.eval_shape(lambda shared, p=protocol: p(SEED, shared), value)
        assert sum(seed is SEED for seed in started) == 1, name


def calls(program, name):
    """How often a program, and those that it holds, call a function of a name."""
    found = 0
    for equation in program.eqns:
        found += equation.params.get("name") == name
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")
        ):
            found += calls(inner.jaxpr, name) if hasattr(inner, "jaxpr") else 0
    return found


def test_a_softmax_of_long_rows_is_a_short_program():
    """With a generator for each draw it had 467 of them, and 27,700 lines."""
    how = private.protocol()

    def run(seed, x):
        shared = scheme.Shared(x, how.scheme)
        return private.evaluate(how, seed, jax.nn.softmax, shared).shares

    x = jax.eval_shape(lambda: ring.zeros(ring.Z64, (3, 2, 512)))
    traced = jax.jit(run).trace(SEED, x)
    assert 5 <= calls(traced.jaxpr.jaxpr, "_threefry2x32") <= 40
    assert traced.lower().as_text().count("\n") < 22_000


def test_views_leave_loops():
    how = sharing.replicated()
    one = scheme.Shared(jnp.arange(3 * 5, dtype=jnp.uint32).reshape(3, 5), how)

    @jax.jit
    def run(seed, shared):
        with transcript.recording() as recorder:
            comparison.to_bits(seed, shared)
        return [view.value for view in recorder.views]

    seen = [view for view in run(SEED, one) if view.ndim == 3]
    # Of five levels of carries, to each party, two words for each value.
    assert [view.shape for view in seen] == [(5, 2, 5)] * 3
    every = np.stack(seen)
    assert len(np.unique(every)) == every.size
