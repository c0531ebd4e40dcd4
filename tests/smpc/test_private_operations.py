"""Operations of JAX on shares beside their results on reals, refusals by name, and the
edges of the fixed point's range.

Many cases are one program: compiling takes longest.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ppml_lab import random
from ppml_lab.smpc import private, private_forms

SEED = jnp.array([3, 5], jnp.uint32)
HOW = private.protocol(ideal=True)
STEP = 2.0**-16
FAST = {"xla_backend_optimization_level": 0}
"""Of compiling, which takes longest."""


def on_shares(how, functions, *args, public=()):
    """All functions' results, of shared and then of public arguments, at once."""

    @functools.partial(jax.jit, compiler_options=FAST)
    def run(args, public):
        parts = random.child(SEED, jnp.arange(len(args) + len(functions)))
        shared = [
            private.share(how, part, arg)
            for part, arg in zip(parts, args, strict=False)
        ]
        return [
            private.reveal(how, private.evaluate(how, part, function, *shared, *public))
            for part, function in zip(parts[len(args) :], functions, strict=True)
        ]

    return run(args, public)


def check(how, functions, *args, public=(), steps=4, relative=0.0):
    """Within so many steps of the result on reals."""
    found = on_shares(how, list(functions.values()), *args, public=public)
    with jax.numpy_dtype_promotion("standard"):
        on_reals = jax.jit(lambda *args: [f(*args) for f in functions.values()])
        every = on_reals(*args, *public)
    for name, result, exact in zip(functions, found, every, strict=True):
        for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(exact), strict=True):
            assert a.shape == b.shape, name
            exact_float = np.asarray(b, np.float64)
            np.testing.assert_allclose(
                a, exact_float, rtol=relative, atol=steps * STEP, err_msg=name
            )


X = jnp.array([[2.0, -3.5, 0.25, 1.0], [-1.0, 4.0, 4.0, 0.0], [0.5, -0.5, 3.0, -2.0]])
Y = jnp.array([[1.0, -3.5, 1.25, -1.0], [0.0, 4.0, 5.0, 7.0], [-0.5, 2.5, 3.0, 1.0]])
IDS = jnp.array([2, 0, 2])


MOVES = {
    "stack": lambda x, y: jnp.stack([x, y], 1),
    "split": lambda x, y: jnp.split(x, [1, 3], axis=1)[1],
    "tile": lambda x, y: jnp.tile(jnp.stack([x, y]), (1, 2)),
    "columns first": lambda x, y: jnp.ravel(x, order="F"),
    "cumsum": lambda x, y: (jnp.cumsum(x, 1), lax.cumsum(y, 0, reverse=True)),
    "gather": lambda x, y: (x[IDS], jnp.take(y, IDS, axis=0), x[1, IDS]),
    "take along": lambda x, y: jnp.take_along_axis(x, IDS[:, None], axis=1),
    "scatter": lambda x, y: (
        x.at[IDS[:2]].set(y[:2]), x.at[IDS].add(y), x.at[0, 1].set(9.0)
    ),
    "dynamic slices": lambda x, y: (
        lax.dynamic_slice(x, (IDS[0] - 1, 1), (2, 2)),
        lax.dynamic_update_slice(x, y[:1, :2], (1, IDS[0])),
    ),
    "gather's gradient": lambda x, y: jax.grad(lambda w: jnp.sum(w[IDS] * y))(x),
    "padding": lambda x, y: lax.pad(x, 2.5, [(1, 0, 1), (0, -1, 0)]),
    "rolled": lambda x, y: (jnp.roll(x, 1, 0), jnp.flip(y), jnp.rot90(x)),
}  # fmt: skip

CHOICES = {
    "abs and sign": lambda x, y: (jnp.abs(x), jnp.sign(x)),
    "truth values": lambda x, y: (
        ~jnp.concatenate([x > 0, y > 1]),
        (x > 0) & (y > 1), (x > 0) | (y > 1), (x > 0) ^ (y > 1),
    ),
    "of public ones": lambda x, y: (
        (x > 0) & (IDS[:, None] > 1), (IDS[:, None] > 1) | (x > 0)
    ),
    "all and any": lambda x, y: (
        jnp.any(x > 3, 1), jnp.all(x > -1.5, 1), jnp.any(x > 9)
    ),
    "larger truth": lambda x, y: jnp.where(jnp.maximum(x > 0, y > 1), x, -y),
    "carried truth": lambda x, y: lax.fori_loop(
        0, 2, lambda i, c: (~c[0], jnp.where(c[0], c[1], c[1] + y)), (x > 0, x)
    ),
    "counts": lambda x, y: (
        jnp.sum(x > 0.5), jnp.mean(x > 0.5), (x > 0).astype(int) * 3
    ),
    "least": lambda x, y: (jnp.min(x), jnp.min(y, 0), jnp.minimum(x, y)),
    "places": lambda x, y: (jnp.argmax(x, 1), jnp.argmin(x, 0), jnp.argmax(y)),
    "right classes": lambda x, y: jnp.mean(jnp.argmax(x, 1) == IDS),
    "equal": lambda x, y: (x == y, x != y, (x > 0) == (y > 0), x == 4.0, x == x),
    "products": lambda x, y: (jnp.prod(y, 1), x**0, x**4, jnp.power(x, 2.0)),
    "of several": lambda x, y: jnp.select([x > 1, x > 0], [x, -y], 0.5),
    "of no NaN": lambda x, y: (jnp.var(x), jnp.where(jnp.isnan(x), jnp.nan, x)),
    "scalars": lambda x, y: (x[0] @ y[0]) * jnp.tril(x),
    "infinite bounds": lambda x, y: (
        jnp.minimum(x, jnp.inf), jnp.maximum(x, -jnp.inf), x < jnp.inf, x > jnp.inf,
        -jnp.inf < x, jnp.max(x, where=x > 99, initial=-4.0), jnp.clip(x, -1, jnp.inf),
        x < jnp.array([jnp.inf, 0.0, -jnp.inf, 1e30]), jnp.isfinite(x),
    ),
}  # fmt: skip


@pytest.mark.parametrize("some", [MOVES, CHOICES], ids=["moves", "choices"])
def test_operations_are_those_of_reals(some):
    check(HOW, some, X, Y)


IMAGES = jax.random.normal(jax.random.key(0), (2, 6, 5, 4))
KERNEL = jax.random.normal(jax.random.key(1), (3, 2, 4, 6))


def conv(x, k, numbers=("NHWC", "HWIO", "NHWC"), **options):
    options: Any = {"window_strides": (1, 1), "padding": "SAME"} | options
    return lax.conv_general_dilated(x, k, dimension_numbers=numbers, **options)


def pooled(x, how, start, window=(1, 3, 2, 1), strides=(1, 2, 2, 1), **options):
    return lax.reduce_window(x, start, how, window, strides, "SAME", **options)


WINDOWS = {
    "dilated": lambda x, k: conv(x, k, rhs_dilation=(2, 1), window_strides=(2, 1)),
    "transposed": lambda x, k: conv(
        x, k, lhs_dilation=(2, 2), padding=[(1, 2), (0, 1)]
    ),
    "channels first": lambda x, k: conv(
        jnp.moveaxis(x, -1, 1), k.transpose(3, 2, 0, 1), ("NCHW", "OIHW", "NCHW")
    ),
    "one axis": lambda x, k: conv(
        x[:, :, 0], k[:, 0], ("NHC", "HIO", "NHC"), window_strides=(2,)
    ),
    "grouped": lambda x, k: conv(x, k[:, :, :2], feature_group_count=2),
    "each channel": lambda x, k: conv(
        x, k[..., :1].transpose(0, 1, 3, 2), feature_group_count=4
    ),
    "gradient": lambda x, k: jax.grad(
        lambda x, k: jnp.sum(conv(x, k, window_strides=(2, 2))), (0, 1)
    )(x, k),
    "maxima": lambda x, k: pooled(x, lax.max, -np.inf),
    "minima": lambda x, k: pooled(x, lax.min, np.inf),
    "sums": lambda x, k: pooled(x, lax.add, 0.0) / 6,
    "dilated maxima": lambda x, k: pooled(
        x, lax.max, -np.inf, window_dilation=(1, 1, 2, 1)
    ),
}  # fmt: skip


def test_convolutions_and_pools_are_those_of_reals():
    check(HOW, WINDOWS, IMAGES, KERNEL, steps=60)


def shape_on_shares(function, *shared):
    """Traced, and not computed."""
    return jax.eval_shape(
        lambda *args: private.evaluate(HOW, SEED, function, *args), *shared
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: jnp.sort(x), "sort has no private form"),
        (lambda x: jnp.sin(x), "sin has no private form"),
        (lambda x: x.astype(int), "from float32 to int32 has no private form"),
        (lambda x: X[0][jnp.argmax(x)], "with private indices"),
        (lambda x: lax.cond(x[0] > 0, jnp.negative, jnp.square, x), "use jnp.where"),
        (lambda x: lax.reduce_window(x, 0.0, lax.mul, (2,), (1,), "VALID"), "window"),
        (lambda x: (x > 0).astype(int) & 1, "truth values"),
        (lambda x: x.astype(jnp.complex64), "complex64"),
    ],
)  # fmt: skip
def test_refusals_name_operation_and_layer(function, message):
    def inside(x):
        with jax.named_scope("block"):
            return function(x)

    shared = private.constant(HOW, X[0])
    with pytest.raises(NotImplementedError, match=message) as caught:
        shape_on_shares(inside, shared)
    assert "block" in str(caught.value)


def test_a_parameter_that_no_form_reads_is_refused(monkeypatch):
    """Whatever the operation: what it does not heed it must not drop."""
    for name, drops in (
        ("reshape", lambda run, call, x: x),
        ("cumsum", lambda r, c, x: x),
    ):
        monkeypatch.setitem(private_forms.FORMS, name, drops)
    shared = private.constant(HOW, X)
    for function in (jnp.ravel, lambda x: lax.cumsum(x, 0)):
        with pytest.raises(NotImplementedError, match="has no private form with"):
            shape_on_shares(function, shared)


def test_a_result_of_another_shape_or_kind_than_the_programs_is_refused(monkeypatch):
    monkeypatch.setitem(private_forms.FORMS, "neg", lambda run, call, x: x)
    wrong = {"gt": lambda run, call, x, y: x, "add": lambda run, call, x, y: y}
    for name, form in wrong.items():
        monkeypatch.setitem(private_forms.FORMS, name, form)
    shared = private.constant(HOW, X)
    row = private.constant(HOW, X[0])
    for function in (
        lambda x, y: x > x,
        lambda x, y: lax.add(x, x * y[0]) @ X.T + y[:3],
    ):
        with pytest.raises(NotImplementedError, match="for a result"):
            shape_on_shares(function, shared, row)
