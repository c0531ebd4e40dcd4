"""Ghost norms and gradients of models of sequences are those of `vmap(grad)`."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab.dp import ghost, per_example

N = 5
KEYS = jax.random.split(jax.random.key(7), N)
FACTORS = np.array([0.3, 0.0, 1.0, 2.0, 0.1])


def normal(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def words_below(number: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(number, size=shape, dtype=np.int32)


def loss_of(module: nn.Module) -> Any:
    """A loss that all outputs of the module, also several, change differently."""

    def loss(key: Any, params: Any, examples: Any) -> Any:
        del key
        outputs: Any = jax.tree.leaves(module.apply(params, examples))
        flat = jnp.concatenate([out.reshape(len(examples), -1) for out in outputs], 1)
        places = jnp.cos(jnp.arange(flat.shape[1], dtype=flat.dtype))
        return jnp.sum(jnp.square(jnp.tanh(flat) - places), axis=1)

    return loss


def compare(module: nn.Module, examples: Any) -> None:
    """Each number to 1e-5, or 1e-6 of the largest, of `vmap(grad)` in 64 bits."""
    leaves = jax.eval_shape(module.init, jax.random.key(0), examples[:1])
    places, structure = jax.tree.flatten(leaves)
    params = jax.tree.unflatten(
        structure,
        [normal(*leaf.shape, seed=at) / 3 for at, leaf in enumerate(places)],
    )

    def found(method: per_example.Method, params: Any, examples: Any) -> Any:
        gradients = method(KEYS, params, examples)
        weights = jax.tree.map(
            lambda norms: jnp.asarray(FACTORS, norms.dtype), gradients.squared_norms
        )
        total = gradients.weighted_sum(weights)
        return gradients.losses, gradients.squared_norms, total.high

    by_layers = ghost.by_layers(loss_of(module))
    got = jax.jit(lambda *given: found(by_layers, *given))(params, examples)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        by_vmap = per_example.by_vmap(loss_of(widened(module)))
        wide = jax.tree.map(as_wide, (params, examples))
        wanted = jax.jit(lambda *given: found(by_vmap, *given))(*wide)
    assert {leaf.dtype for leaf in jax.tree.leaves(wanted)} == {np.dtype("float64")}
    for one, other in zip(got, wanted, strict=True):
        # Softmax leaves keys' biases no gradient but what rounding makes.
        rounding = 1e-6 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(other))
        for leaf, exact in zip(*map(jax.tree.leaves, (one, other)), strict=True):
            np.testing.assert_allclose(leaf, exact, rtol=1e-5, atol=rounding)


def as_wide(leaf: np.ndarray) -> np.ndarray:
    return leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf


def widened(module: Any) -> nn.Module:
    """With a first state in 64 bits, which its cells make of their parameters' type."""
    if isinstance(module, nn.RNN):
        return module.clone(cell=widened(module.cell))
    is_typed = hasattr(module, "param_dtype")
    return module.clone(param_dtype=np.float64) if is_typed else module


@pytest.mark.parametrize(
    "layer",
    [
        nn.DenseGeneral((2, 3), axis=(3, 1)),
        nn.DenseGeneral((2, 3), axis=(-1, -2), use_bias=False),
        nn.DenseGeneral(5, axis=1),
    ],
)
def test_dense_layers_of_several_axes(layer):
    compare(layer, normal(N, 4, 2, 3))


class Attentive(nn.Module):
    """Queries, keys and values of three kinds, with a mask of each example's own."""

    attention: Any

    @nn.compact
    def __call__(self, x: Any) -> Any:
        there = x[:, 2:, 0] > -1
        mask = nn.make_attention_mask(jnp.ones_like(there[:, :2]), there, dtype=bool)
        return self.attention(x[:, :2], x[:, 2:], 2 * x[:, 1:-1], mask=mask)


@pytest.mark.parametrize(
    "attention",
    [
        nn.MultiHeadDotProductAttention(3, qkv_features=6, out_features=5),
        *(
            pytest.param(
                one, marks=pytest.mark.exhaustive
            )  # options of the same layers
            for one in (
                nn.MultiHeadDotProductAttention(2, use_bias=False),
                nn.MultiHeadAttention(2, normalize_qk=True, qkv_features=8),
            )
        ),
    ],
)
def test_attention(attention):
    compare(Attentive(attention), normal(N, 7, 4))


class Sentence(nn.Module):
    """Words and where they stand, through causal attention to the next word."""

    positions: str
    tied: bool

    @nn.compact
    def __call__(self, words: Any) -> Any:
        length, table = words.shape[1], nn.Embed(7, 4)
        h, init = table(words), nn.initializers.normal()
        if self.positions == "parameter":
            h = h + self.param("positions", init, (1, 9, 4))[:, :length]
        else:
            h = h + nn.Embed(9, 4)(jnp.arange(length))
        mask = nn.combine_masks(
            nn.make_causal_mask(words, dtype=bool),
            nn.make_attention_mask(words > 0, words > 0, dtype=bool),
            dtype=bool,
        )
        attention: Any = nn.MultiHeadDotProductAttention(2, use_bias=False)
        h = h + attention(nn.LayerNorm()(h), mask=mask)
        return table.attend(h) if self.tied else nn.Dense(7)(h)


@pytest.mark.parametrize(
    ("positions", "tied"),
    [
        ("parameter", True),
        # Each alone: tests/models/test_sequences.py.
        pytest.param("table", False, marks=pytest.mark.exhaustive),
    ],
)
def test_positions_of_all_examples_and_a_table_that_is_used_twice(positions, tied):
    compare(Sentence(positions, tied), words_below(7, N, 6))


@pytest.mark.parametrize(
    "layer",
    [
        nn.RNN(nn.OptimizedLSTMCell(3), return_carry=True, reverse=True),
        nn.RNN(nn.GRUCell(3), reverse=True, keep_order=True),
        *(
            pytest.param(one, marks=pytest.mark.exhaustive)  # above, in other pairs
            for one in (
                nn.RNN(nn.OptimizedLSTMCell(3, carry_init=nn.initializers.ones)),
                nn.RNN(nn.LSTMCell(3), return_carry=True),
                nn.RNN(
                    nn.LSTMCell(3), return_carry=True, reverse=True, keep_order=True
                ),
                nn.RNN(nn.GRUCell(3), reverse=True),
                nn.RNN(nn.MGUCell(3), time_major=True, reverse=True),
            )
        ),
    ],
)
def test_recurrent_networks_that_go_backwards_and_tell_their_last_state(layer):
    compare(layer, normal(N, 6, 2))


class Translation(nn.Module):
    """What is read forwards sets what is added to all that is told, by a Dense."""

    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Any) -> Any:
        kind = {"param_dtype": self.param_dtype}
        carry, _ = nn.RNN(nn.OptimizedLSTMCell(4, **kind), return_carry=True)(x)
        start = nn.Dense(2)(jnp.concatenate(carry, axis=1))
        told = nn.RNN(nn.LSTMCell(3, **kind))(x + start[:, None])
        return nn.Dense(2)(told)


@pytest.mark.exhaustive  # its layers: above
def test_a_loss_of_the_last_state_alone():
    compare(Translation(), normal(N, 6, 2))
