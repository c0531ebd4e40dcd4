"""Our convolution gives lax's numbers and derivatives, in the layout that is fast."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ppml_lab import models
from ppml_lab.models import conv, modules

KEY = jax.random.key(0)
LAYOUT = ("NHWC", "HWIO", "NHWC")
# Images, kernels, strides, padding, dilation of images, of kernels.
CASES: dict[str, tuple[Any, ...]] = {
    "same": ((2, 6, 5, 3), (3, 3, 3, 4), (1, 1), "SAME", None, None),
    "same, even kernel": ((2, 5, 6, 1), (2, 4, 1, 3), (1, 1), "SAME", None, None),
    "same, strides": ((2, 7, 6, 2), (3, 2, 2, 3), (2, 3), "SAME", None, None),
    "same, dilated": ((1, 8, 7, 2), (3, 2, 2, 2), (1, 2), "SAME", (1, 1), (2, 3)),
    "same lower": ((2, 5, 6, 2), (2, 4, 2, 3), (2, 1), "SAME_LOWER", None, None),
    "valid": ((2, 6, 5, 3), (3, 4, 3, 2), (1, 1), "VALID", None, None),
    "valid, left over": ((2, 9, 8, 2), (3, 2, 2, 2), (4, 3), "VALID", None, None),
    "one pixel": ((3, 1, 1, 2), (1, 1, 2, 5), (1, 1), "VALID", None, None),
    "kernel as large": ((2, 5, 4, 2), (5, 4, 2, 3), (1, 1), "VALID", None, None),
    "strides beyond": ((2, 7, 7, 1), (2, 1, 1, 2), (3, 2), "VALID", None, None),
    "uneven": ((2, 6, 5, 2), (3, 3, 2, 2), (2, 1), ((0, 2), (3, 1)), None, None),
    "cropped": ((2, 9, 8, 2), (3, 2, 2, 2), (1, 2), ((-1, 2), (1, -2)), None, None),
    "images dilated": (
        (2, 4, 5, 2), (3, 2, 2, 3), (1, 1), ((1, 2), (0, 1)), (2, 3), None,
    ),
    "everything": (
        (2, 6, 5, 2), (3, 2, 2, 3), (3, 2), ((2, 3), (1, 4)), (2, 3), (2, 3),
    ),
}  # fmt: skip


def arrays(*shapes: tuple[int, ...]) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def pair(case: str) -> tuple[tuple[jax.Array, jax.Array], Any, Any]:
    """Images and kernels; lax's function of them, and ours."""
    lhs, rhs, *window = CASES[case]
    lax_conv, our_conv = (
        lambda x, k, f=f: f(x, k, *window, dimension_numbers=LAYOUT)
        for f in (lax.conv_general_dilated, conv.conv_general_dilated)
    )
    x, k = arrays(lhs, rhs)
    return (x, k), lax_conv, our_conv


def window(case: str) -> conv.Window:
    """A case's window, without names or Nones."""
    lhs, rhs, strides, padding, *dilations = CASES[case]
    dilations = [given or (1, 1) for given in dilations]
    if isinstance(padding, str):
        reach = [(n - 1) * d + 1 for n, d in zip(rhs[:2], dilations[1], strict=True)]
        padding = tuple(lax.padtype_to_pads(lhs[1:3], reach, strides, padding))
    return conv.Window(strides, padding, *dilations)


def with_gradients(function: Any) -> Any:
    """Values and both gradients of a loss that is not linear in the output."""

    def all_of(x: jax.Array, k: jax.Array) -> Any:
        out, pull = jax.vjp(function, x, k)
        return out, pull(jnp.sin(out))

    return all_of


def assert_same(ours: Any, theirs: Any, *arguments: Any) -> None:
    """Both functions, or tuples of functions, give the same up to rounding."""

    @jax.jit
    def run(*given: Any) -> Any:
        return jax.tree.map(lambda function: function(*given), (ours, theirs))

    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(close, *run(*arguments))


def primitives(jaxpr: Any, name: str) -> Iterator[Any]:
    """The equations of a primitive, at any depth."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == name:
            yield equation
        for inner in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from primitives(inner, name)


def layouts(function: Any, *arguments: Any) -> list[Any]:
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    found = primitives(jaxpr, "conv_general_dilated")
    return [equation.params["dimension_numbers"] for equation in found]


FAST = lax.conv_dimension_numbers((1, 1, 1, 1), (1, 1, 1, 1), LAYOUT)


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_lax_by_patches_too(case):
    both, theirs, ours = pair(case)
    patches = partial(conv.by_patches, window=window(case))
    theirs, ours, patches = map(with_gradients, (theirs, ours, patches))
    assert_same((ours, patches), (theirs, theirs), *both)
    assert layouts(ours, *both) == [FAST] * 3
    assert not layouts(patches, *both)


@pytest.mark.parametrize("case", ["same, strides", "everything"])
def test_second_derivatives_are_those_of_lax(case):
    both, theirs, ours = pair(case)

    def second(function):
        def squared(x, k):
            def loss(x, k):
                return jnp.sin(function(x, k)).sum()

            grads = jax.grad(loss, argnums=(0, 1))(x, k)
            return sum((g**2).sum() for g in grads)

        return jax.grad(squared, argnums=(0, 1))

    assert_same(second(ours), second(theirs), *both)
    assert set(layouts(second(ours), *both)) == {FAST}


@pytest.fixture(params=["cpu", "gpu"])
def backend(request, monkeypatch):
    """The rule of each backend; the numbers are this one's."""
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)
    return request.param


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (2, -1)], ids=str)
def test_vmap_of_gradients(axes, backend):
    both, theirs, ours = pair("everything")
    stacked = [
        array if axis is None else jnp.stack([array, array[::-1], -array], axis)
        for array, axis in zip(both, axes, strict=True)
    ]
    maps = [jax.vmap(with_gradients(f), axes) for f in (ours, theirs)]
    assert_same(*maps, *stacked)
    if backend == "cpu":
        assert set(layouts(maps[0], *stacked)) == {FAST}


@pytest.mark.parametrize("outer", [(0, 0), (None, 0)], ids=str)
@pytest.mark.parametrize("inner", [(0, 0), (0, None)], ids=str)
def test_nested_vmap(outer, inner, backend):
    lhs, rhs, *_ = CASES["same, strides"]
    _, theirs, ours = pair("same, strides")
    shapes = [
        tuple(n for n, axis in ((2, o), (3, i)) if axis == 0) + shape
        for shape, o, i in zip((lhs, rhs), outer, inner, strict=True)
    ]
    assert_same(
        *(jax.vmap(jax.vmap(with_gradients(f), inner), outer) for f in (ours, theirs)),
        *arrays(*shapes),
    )


def test_gradient_of_vmap(backend):
    (x, k), theirs, ours = pair("same, strides")
    stacked = jnp.stack([x, 2 * x]), jnp.stack([k, -k])

    def gradient(function):
        def loss(x, k):
            return jnp.sin(jax.vmap(function)(x, k)).sum()

        return jax.grad(loss, argnums=(0, 1))

    assert_same(gradient(ours), gradient(theirs), *stacked)


FALLBACKS: dict[str, tuple[Any, ...]] = {
    "groups": ((2, 5, 5, 4), (3, 3, 2, 6), {"feature_group_count": 2}, LAYOUT),
    "precision": ((2, 5, 5, 2), (3, 3, 2, 3), {"precision": "highest"}, LAYOUT),
    "one axis": ((2, 7, 2), (3, 2, 4), {}, ("NHC", "HIO", "NHC")),
    "three axes": ((1, 3, 4, 5, 2), (2, 2, 2, 2, 3), {}, ("NDHWC", "DHWIO", "NDHWC")),
    "channels first": ((2, 3, 6, 5), (4, 3, 2, 2), {}, None),
    "kernel's layout": ((2, 5, 5, 3), (4, 3, 2, 2), {}, ("NHWC", "OIHW", "NHWC")),
}


@pytest.mark.parametrize("case", FALLBACKS)
def test_what_is_not_ours_goes_to_lax(case, monkeypatch):
    lhs, rhs, options, names = FALLBACKS[case]
    monkeypatch.setattr(conv, "convolve", None)
    ours, theirs = (
        lambda x, k, f=f: f(
            x, k, (2,) * (len(lhs) - 2), "SAME", dimension_numbers=names, **options
        )
        for f in (conv.conv_general_dilated, lax.conv_general_dilated)
    )
    assert_same(ours, theirs, *arrays(lhs, rhs))


def test_named_paddings_of_dilated_images_are_refused_as_by_lax():
    x, k = arrays((1, 4, 4, 1), (2, 2, 1, 1))
    with pytest.raises(ValueError, match="String padding"):
        conv.conv_general_dilated(
            x, k, (1, 1), "SAME", lhs_dilation=(2, 2), dimension_numbers=LAYOUT
        )


@pytest.mark.parametrize("shape", [(2, 6, 4, 3), (1, 7, 5, 2), (1, 1, 4, 1)], ids=str)
def test_halved_is_max_pooling(shape):
    (x,) = arrays(shape)

    def pooled(x):
        return nn.max_pool(x, (2, 2), strides=(2, 2))

    for function in (lambda f: f, lambda f: jax.grad(lambda x: jnp.sin(f(x)).sum())):
        assert_same(function(modules.halved), function(pooled), x)


class PlainCNN(nn.Module):
    """McMahan's CNN as flax has it."""

    @nn.compact
    def __call__(self, x):
        for i, channels in enumerate((32, 64)):
            x = nn.relu(nn.Conv(channels, (5, 5), name=f"Conv_{i}")(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(512)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10)(x)


def test_the_cnn_is_flax_s_in_another_layout():
    (x,) = arrays((4, 8, 8, 1))
    plain, fast = PlainCNN(), models.CNN(10)
    params = jax.jit(plain.init)(KEY, x)
    shapes, expected = (jax.eval_shape(m.init, KEY, x) for m in (fast, plain))
    assert shapes == expected

    def loss(params, module):
        return jnp.sin(module.apply(params, x)).sum()

    of_plain, of_fast = (
        jax.value_and_grad(partial(loss, module=module)) for module in (plain, fast)
    )
    expected, found = jax.jit(lambda p: (of_plain(p), of_fast(p)))(params)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6, atol=1e-6)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, found[1], expected[1])
    assert set(layouts(of_plain, params)) > {FAST}  # the reader sees other layouts
    assert layouts(of_fast, params) == [FAST] * 6
