"""Layers with random options: ghost norms are exact, or refuse by name."""

import warnings
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab.dp import ghost, per_example

N = 4
FLOATS = [None, jnp.float32, jnp.bfloat16, jnp.float16]


def of(rng: np.random.Generator, options: list) -> Any:
    return options[rng.integers(len(options))]


def scaled_promotion(*arrays: Any, dtype: Any = None, **options: Any) -> list[Any]:
    promoted = nn.dtypes.promote_dtype(*arrays, dtype=dtype, **options)
    return [None if array is None else 2 * array for array in promoted]


def doubled_dot(*args: Any, **options: Any) -> Any:
    return 2 * jax.lax.dot_general(*args, **options)


def centred_convolution(lhs: Any, rhs: Any, *args: Any, **options: Any) -> Any:
    return jax.lax.conv_general_dilated(lhs, rhs - jnp.mean(rhs), *args, **options)


def dense(rng: np.random.Generator) -> Any:
    layer = nn.Dense(
        int(rng.integers(1, 5)),
        use_bias=of(rng, [True, False]),
        dtype=of(rng, FLOATS),
        param_dtype=of(rng, FLOATS[1:]),
        dot_general=of(rng, [None, None, None, doubled_dot]),
        promote_dtype=of(rng, [nn.dtypes.promote_dtype] * 3 + [scaled_promotion]),
    )
    return layer, (*rng.integers(1, 5, rng.integers(0, 3)), int(rng.integers(1, 5)))


def dense_general(rng: np.random.Generator) -> Any:
    layer = nn.DenseGeneral(
        of(rng, [3, (2, 3)]),
        axis=of(rng, [-1, 1, (-2, -1), (2, 1)]),
        batch_dims=of(rng, [(), (), (), (0,)]),
        use_bias=of(rng, [True, False]),
        dtype=of(rng, FLOATS),
        dot_general=of(rng, [None, None, None, doubled_dot]),
    )
    return layer, (*rng.integers(1, 4, rng.integers(1, 3)), int(rng.integers(1, 5)))


def conv(rng: np.random.Generator) -> Any:
    rank = int(rng.integers(1, 3))
    kernel = [int(k) for k in rng.integers(1, 4, rank)]
    groups = of(rng, [1, 1, 1, 2])
    mask_shape = (*kernel, 2 // groups, 2)
    padding = of(
        rng, ["SAME", "SAME_LOWER", "VALID", "CIRCULAR", "REFLECT", 1, "pairs"]
    )
    if padding == "pairs":
        padding = [tuple(map(int, rng.integers(0, 3, 2))) for _ in kernel]
    if rank == 1 and rng.random() < 0.2:
        padding = "CAUSAL"
    dilated = not isinstance(padding, str)
    layer = of(rng, [nn.Conv, nn.Conv, nn.Conv, nn.ConvTranspose, nn.ConvLocal])
    options: dict[str, Any] = {}
    if layer is nn.Conv:
        options = {
            "feature_group_count": groups,
            "input_dilation": of(rng, [1, 2]) if dilated else 1,
            "mask": of(rng, [None, None, None, jnp.ones(mask_shape)]),
            "conv_general_dilated": of(rng, [None, None, None, centred_convolution]),
        }
    if layer is nn.ConvTranspose:
        padding = of(rng, ["SAME", "VALID", "CIRCULAR"])
    if layer is nn.ConvLocal:
        padding = of(rng, ["SAME", "VALID"])
    made = layer(
        2,
        tuple(kernel),
        of(rng, [1, 2]) if layer is not nn.ConvTranspose else None,
        padding=padding,
        kernel_dilation=of(rng, [1, 2]),
        use_bias=of(rng, [True, False]),
        dtype=of(rng, FLOATS),
        **options,
    )
    batch = rng.integers(1, 3, rng.integers(0, 2)) if layer is nn.Conv else ()
    return made, (*batch, *rng.integers(5, 8, rank), 2)


def norm(rng: np.random.Generator) -> Any:
    scale = of(rng, [True, False])
    common = {"use_scale": scale, "dtype": of(rng, FLOATS[:3])}
    axes = of(rng, [-1, -1, (-2, -1)])
    bias = True if not scale else of(rng, [True, False])
    made = of(
        rng,
        [
            nn.LayerNorm(
                reduction_axes=axes, feature_axes=of(rng, [-1, axes]),
                use_fast_variance=of(rng, [True, False]), use_bias=bias, **common,
            ),
            nn.RMSNorm(reduction_axes=axes, dtype=of(rng, FLOATS[:3])),
            nn.GroupNorm(of(rng, [1, 2, 4]), use_bias=bias, **common),
            nn.GroupNorm(None, group_size=2, use_bias=bias, **common),
            nn.InstanceNorm(use_bias=bias, **common),
        ],
    )  # fmt: skip
    return made, (*rng.integers(2, 4, rng.integers(1, 3)), 4)


def embed(rng: np.random.Generator) -> Any:
    layer = nn.Embed(
        int(rng.integers(1, 5)),
        3,
        dtype=of(rng, FLOATS),
        promote_dtype=of(rng, [nn.dtypes.promote_dtype] * 3 + [scaled_promotion]),
    )
    return layer, tuple(map(int, rng.integers(1, 6, rng.integers(0, 3))))


def recurrent(rng: np.random.Generator) -> Any:
    cells = [nn.LSTMCell, nn.OptimizedLSTMCell, nn.GRUCell, nn.MGUCell, nn.SimpleCell]
    cell = of(rng, cells)
    start = of(rng, [nn.initializers.zeros, nn.initializers.normal(1.0)])
    options = {"residual": True} if cell is nn.SimpleCell and rng.random() < 0.5 else {}
    layer = nn.RNN(
        cell(3, carry_init=start, **options),
        reverse=of(rng, [False, False, True]),
        time_major=of(rng, [False, False, True]),
        unroll=of(rng, [1, 2]),
        keep_order=of(rng, [False, True]),
        return_carry=of(rng, [False, False, True]),
    )
    return layer, (5, 3)


KINDS = [dense, dense_general, conv, norm, embed, recurrent]


class Used(nn.Module):
    """A layer in one of the ways in which models use layers."""

    layer: Any
    way: str

    @nn.compact
    def __call__(self, x: Any) -> Any:
        layer = self.layer
        if self.way == "twice":
            return layer(x) + 2 * layer(x[::-1])
        if self.way == "remat":
            return nn.remat(lambda module, value: module.layer(value))(self, x)
        if self.way == "jit":
            return nn.jit(lambda module, value: module.layer(value))(self, x)
        if self.way == "mapped":
            return nn.map_variables(
                type(layer).__call__,
                "params",
                lambda tree: jax.tree.map(lambda leaf: 2 * leaf, tree),
                init=self.is_initializing(),
            )(layer, x)
        if self.way == "named":
            return layer(**{INPUTS.get(type(layer), "inputs"): x})
        if self.way == "without batch":
            return layer(x[0])[None]
        if self.way == "regularised":
            out = layer(x)
            own = jax.tree.leaves(layer.variables["params"])
            return out + sum(jnp.sum(leaf.astype(out.dtype) ** 2) for leaf in own)
        if self.way == "normed":
            return nn.WeightNorm(layer)(x)
        return layer(x)


INPUTS = {nn.LayerNorm: "x", nn.RMSNorm: "x", nn.GroupNorm: "x"}
WAYS = [
    "once", "once", "once", "twice", "remat", "jit", "mapped", "named",
    "without batch", "regularised", "normed",
]  # fmt: skip


def inputs_of(rng: np.random.Generator, layer: Any, shape: tuple) -> jax.Array:
    shape = (N, *map(int, shape))
    if isinstance(layer, nn.Embed):
        edge = layer.num_embeddings
        kind = of(rng, [np.int8, np.int32, np.uint8, np.uint32])
        low = 0 if np.issubdtype(kind, np.unsignedinteger) else -edge - 2
        return jnp.asarray(rng.integers(low, edge + 2, shape), kind)
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def check(seed: int) -> str | None:
    """What became of one configuration; None where flax itself refuses it."""
    rng = np.random.default_rng(seed)
    layer, shape = of(rng, KINDS)(rng)
    module = Used(layer, of(rng, WAYS))
    x = inputs_of(rng, layer, shape)

    def loss(key: Any, params: Any, examples: Any) -> Any:
        del key
        outputs: Any = module.apply(params, examples)
        # Rows beyond a table are NaN, which models mask.
        parts = [
            jnp.where(jnp.isnan(out), 0, out).astype(jnp.float32)
            for out in jax.tree.leaves(outputs)
        ]
        flat = jnp.concatenate(
            [part.reshape(len(examples), -1) for part in parts], axis=1
        )
        return jnp.sum(jnp.tanh(flat) * jnp.cos(jnp.arange(flat.shape[1])), axis=1)

    keys = jax.random.split(jax.random.key(seed), N)
    try:
        params: Any = module.init(keys[0], x[:1])
    except Exception:
        return None
    if "params" not in params:
        return None
    factors = jnp.asarray([0.3, 0.0, 1.0, 2.0])

    def both(method: Callable) -> Any:
        found = method(keys, params, x)
        weights = jax.tree.map(lambda _: factors, params)
        total = found.weighted_sum(weights)
        return found.losses, found.squared_norms, total.high

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            wanted = jax.jit(lambda: both(per_example.by_vmap(loss)))()
        except Exception:
            return None
        try:
            found = jax.jit(lambda: both(ghost.by_layers(loss)))()
        except ghost.UnknownLayerError:
            return "refused"
    types = [leaf.dtype for leaf in jax.tree.leaves(params)]
    computed = getattr(layer, "dtype", None) or jnp.float32
    short = any(jnp.dtype(kind).itemsize < 4 for kind in [computed, *types])
    rounding = 3e-2 if short else 2e-5
    for got, own in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        size = np.abs(own).max() if own.size else 0
        np.testing.assert_allclose(
            got, own, rtol=rounding, atol=rounding * size,
            err_msg=f"seed {seed}: {module}, inputs {x.dtype}{x.shape}",
        )  # fmt: skip
    return "exact"


def outcomes(seeds: range) -> dict[Any, int]:
    with jax.numpy_dtype_promotion("standard"):
        found = [check(seed) for seed in seeds]
    return {kind: found.count(kind) for kind in ("exact", "refused", None)}


def test_a_few_configurations():
    found = outcomes(range(8))
    assert found["exact"] >= 1
    assert found["refused"] >= 1


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(10))
def test_many_configurations(part):
    found = outcomes(range(100 + 40 * part, 140 + 40 * part))
    assert found["exact"] >= 6
