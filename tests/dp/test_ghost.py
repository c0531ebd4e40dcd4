"""Ghost norms and gradients are those of `vmap(grad)`, layer by layer and mixed."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml_lab import dp, models
from ppml_lab.dp import ghost, per_example

N = 5
KEYS = jax.random.split(jax.random.key(7), N)
PADDINGS = st.sampled_from(["SAME", "VALID", "CIRCULAR", 1])


def squared_error(module: nn.Module) -> Any:
    """A loss that every output of the module changes differently."""

    def loss(key: Any, params: Any, examples: Any) -> Any:
        del key
        outputs: Any = module.apply(params, examples)
        places = jnp.arange(outputs[0].size, dtype=jnp.float32)
        flat = outputs.reshape(len(outputs), -1)
        return jnp.sum(jnp.square(jnp.tanh(flat) - jnp.cos(places)), axis=1)

    return loss


def normal(*shape: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """NumPy's: nothing is compiled for every shape."""
    rng = np.random.default_rng(1) if rng is None else rng
    return rng.normal(size=shape).astype(np.float32)


def words_below(number: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(number, size=shape, dtype=np.int32)


def compare(module: nn.Module, examples: Any) -> None:
    """Norms to 1e-5 relative, weighted sums to 1e-5 of the largest entry."""
    rng = np.random.default_rng(0)
    leaves = jax.eval_shape(module.init, jax.random.key(0), examples[:1])
    params = jax.tree.map(lambda leaf: normal(*leaf.shape, rng=rng) / 3, leaves)
    check(squared_error(module), params, examples)


def check(loss: Any, params: Any, examples: Any) -> None:
    factors = jnp.array([0.3, 0.0, 1.0, 2.0, 0.1])

    def both(method: per_example.Method) -> Any:
        found = method(KEYS, params, examples)
        weights = jax.tree.map(lambda _: factors, params)
        return found.losses, found.squared_norms, found.weighted_sum(weights)

    expected, found = jax.jit(
        lambda: (both(per_example.by_vmap(loss)), both(ghost.by_layers(loss)))
    )()
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for got, wanted in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * scale)


shapes = settings(
    max_examples=settings().max_examples // 25, deadline=None, derandomize=True
)


@shapes
@given(
    places=st.lists(st.integers(1, 9), max_size=2),
    inputs=st.integers(1, 12),
    outputs=st.integers(1, 12),
    use_bias=st.booleans(),
)
def test_dense(places, inputs, outputs, use_bias):
    examples = normal(N, *places, inputs)
    compare(nn.Dense(outputs, use_bias=use_bias), examples)


@shapes
@given(
    size=st.lists(st.integers(4, 8), min_size=1, max_size=2),
    kernel=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    padding=PADDINGS,
)
def test_conv(size, kernel, channels, stride, dilation, padding):
    inputs, outputs = channels
    layer = nn.Conv(
        outputs, (kernel,) * len(size), stride, padding=padding,
        kernel_dilation=1 if padding == "VALID" else dilation,
    )  # fmt: skip
    compare(layer, normal(N, *size, inputs))


def test_conv_with_dilated_inputs_causal_padding_and_the_labs_own_convolution():
    images = normal(N, 5, 6, 2)
    compare(nn.Conv(3, (2, 3), input_dilation=(2, 1), padding=((1, 2), (0, 1))), images)
    compare(nn.Conv(3, 2, padding="CAUSAL"), images[:, :, 0])
    own = nn.Conv(3, (3, 3), conv_general_dilated=models.conv.conv_general_dilated)
    compare(own, images)


@shapes
@given(
    places=st.lists(st.integers(1, 6), max_size=2),
    entries=st.integers(2, 4),
    features=st.integers(1, 5),
)
def test_embed_adds_up_words_that_come_again(places, entries, features):
    words = words_below(entries, N, *places)
    compare(nn.Embed(entries, features), words)


@shapes
@given(
    places=st.lists(st.integers(1, 4), min_size=1, max_size=2),
    groups=st.integers(1, 3),
    use=st.sampled_from([(True, True), (True, False), (False, True)]),
)
def test_norms(places, groups, use):
    examples = normal(N, *places, 2 * groups)
    scale, bias = use
    compare(nn.LayerNorm(use_scale=scale, use_bias=bias), examples)
    compare(nn.GroupNorm(groups, use_scale=scale, use_bias=bias), examples)
    if scale:
        compare(nn.RMSNorm(), examples)


@pytest.mark.parametrize(
    "cell",
    [
        nn.LSTMCell(3),
        nn.SimpleCell(3),
        *(
            pytest.param(cell, marks=pytest.mark.exhaustive)
            for cell in (nn.GRUCell(2), nn.MGUCell(2))
        ),
    ],
)
def test_the_steps_of_a_recurrent_network_are_added_up(cell):
    compare(nn.RNN(cell), normal(N, 7, 2))


class Speaker(nn.Module):
    """Words through two layers of LSTM, of which the second is used twice."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        again: Any = nn.RNN(nn.LSTMCell(4))
        h = nn.RNN(nn.LSTMCell(4))(nn.Embed(5, 3)(x))
        return nn.Dense(5)(again(again(h)))


@pytest.mark.exhaustive  # its layers: above
def test_a_language_model():
    compare(Speaker(), words_below(5, N, 6))


class Mixed(nn.Module):
    """All layers, some of them used several times."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        shared, words = nn.Dense(6), nn.Embed(5, 6)
        h = nn.Conv(4, (3, 2), strides=(2, 1), padding="CIRCULAR")(x)
        h = nn.relu(nn.GroupNorm(2)(h))
        h = nn.Conv(3, (2, 2), kernel_dilation=2)(h)
        h = shared(nn.LayerNorm()(h.reshape(h.shape[0], -1, 6)))
        h = shared(jnp.tanh(h)) + words((jnp.abs(h[..., 0]) * 3).astype(int) % 5)
        h = h + words(jnp.zeros(h.shape[:2], int))
        return nn.Dense(10)(nn.RMSNorm()(h).mean(1))


class Unrolled(nn.Module):
    """An LSTM whose steps are calls of the same layers."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        cell = nn.LSTMCell(4)
        carry = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)
        h = carry[1]
        for step in range(x.shape[1]):
            carry, h = cell(carry, x[:, step])
        return nn.Dense(3)(h)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (Mixed(), (8, 6, 2)),
        (Unrolled(), (6, 3)),
        (models.CNN(10), (12, 12, 1)),
        *(
            pytest.param(module, (28, 28, 1), marks=pytest.mark.exhaustive)
            for module in (models.two_nn(10), models.LeNet(10), models.TutorialCNN(10))
        ),
    ],
)
def test_whole_models(module, shape):
    compare(module, normal(N, *shape))


@pytest.mark.parametrize(
    "bad", [np.nan, pytest.param(np.inf, marks=pytest.mark.exhaustive)]
)
def test_a_bad_example_is_heard_in_no_layer(bad):
    """Its factor is 0; its inputs and gradients are not finite."""
    module = Mixed()
    loss = squared_error(module)
    examples = normal(N, 8, 6, 2)
    params = jax.jit(module.init)(jax.random.key(0), examples[:1])
    mechanism = dp.gaussian(0.7, 0.0, privacy_unit="example")
    gradient = jax.jit(dp.clipped_gradient(loss, mechanism, method="ghost"))
    present = jnp.ones(N).at[3].set(0)
    expected, _ = gradient(KEYS, (), params, examples, present)
    spoilt = examples.copy()
    spoilt[3, 2, 1, 0] = bad
    for weights in (present, jnp.ones(N)):
        found, _ = gradient(KEYS, (), params, spoilt, weights)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_over_clients_and_their_models():
    module = Mixed()
    loss = squared_error(module)
    examples = normal(3, N, 8, 6, 2)
    init = jax.jit(jax.vmap(module.init))
    start = init(jax.random.split(KEYS[0], 3), examples[:, :1])

    def norms(method: per_example.Method) -> Any:
        one = jax.vmap(lambda p, x: method(KEYS, p, x).squared_norms)
        return jax.jit(one)(start, examples)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-9),
        norms(ghost.by_layers(loss)),
        norms(per_example.by_vmap(loss)),
    )


def with_own_parameter() -> Any:
    class Projected(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            weights = self.param("weights", nn.initializers.normal(), (3, 30))
            return nn.Dense(3)(x) @ weights

    return Projected(), "weights"


def with_an_unknown_layer() -> Any:
    return nn.Sequential([nn.Dense(4), nn.Einsum((4, 9), "...a,ab->...b")]), "layers_1"


def with_a_tied_table() -> Any:
    class Tied(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            words = nn.Embed(40, 3)
            return words.attend(words(jnp.abs(x).astype(int) % 40))

    return Tied(), "embedding"


def with_an_unknown_scan() -> Any:
    class Cell(nn.GRUCell):
        pass

    return nn.RNN(Cell(3)), "kernel"


def with_groups() -> Any:
    return nn.Conv(4, (2,), feature_group_count=2), "kernel"


def with_a_subclass() -> Any:
    class Doubled(nn.Dense):
        @nn.compact
        def __call__(self, inputs: Any) -> Any:
            return 2 * super().__call__(inputs)

    return Doubled(3), "kernel"


def with_an_interceptor() -> Any:
    def doubled(layer: Any, args: Any, kwargs: Any, context: Any) -> Any:
        return layer(*(2 * one for one in args), **kwargs)

    class Doubled(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            with nn.intercept_methods(doubled):
                return nn.Dense(30)(x)

    return Doubled(), "kernel"


def with_a_module_in_a_cell() -> Any:
    return nn.RNN(nn.SimpleCell(3, activation_fn=nn.PReLU())), "kernel"


@pytest.mark.parametrize(
    "build",
    [
        with_own_parameter, with_an_unknown_layer, with_a_tied_table,
        with_an_unknown_scan, with_groups, with_a_subclass, with_an_interceptor,
        with_a_module_in_a_cell,
    ],
)  # fmt: skip
def test_what_it_does_not_know_is_refused_or_goes_through_vmap(build: Callable):
    module, named = build()
    examples = normal(N, 5, 4)
    params = jax.jit(module.init)(KEYS[0], examples)
    loss = squared_error(module)
    mechanism = dp.gaussian(0.7, 0.0, privacy_unit="example")

    def gradient(method: str) -> Any:
        clipped = jax.jit(dp.clipped_gradient(loss, mechanism, method=method))
        return clipped(KEYS, (), params, examples, jnp.ones(N))[0]

    with pytest.raises(ValueError, match=f'{named}.* reach the loss.*method="vmap"'):
        gradient("ghost")
    with pytest.warns(UserWarning, match=named):
        found = gradient("auto")
    jax.tree.map(np.testing.assert_array_equal, found, gradient("vmap"))


def test_nothing_is_heard_twice_where_scans_are_loops():
    module, examples = nn.RNN(nn.GRUCell(2)), normal(N, 3, 4)
    params = module.init(KEYS[0], examples)
    gradients = ghost.by_layers(squared_error(module))

    def norms() -> Any:
        return gradients(KEYS, params, jnp.asarray(examples)).squared_norms

    wanted = jax.jit(norms)()
    with jax.disable_jit():
        found = norms()
    for leaf, exact in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        np.testing.assert_allclose(leaf, exact, rtol=1e-5)


def test_small_parameters_of_its_own_have_gradients_of_their_own():
    """A shift of all places, a scale, a table of words that is read and told again, and
    a weight that a layer uses and that is penalised.
    """

    class Own(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            init, words, last = nn.initializers.normal(), nn.Embed(4, 3), nn.Dense(2)
            h = words(jnp.abs(x).astype(int) % 4) + self.param("shift", init, (4, 3))
            h = words.attend(h) * self.param("scale", init, (4,))
            weights = last(h), last.variables["params"]["kernel"]
            return weights[0] + jnp.sum(weights[1] ** 2)

    compare(Own(), normal(N, 5, 4))


def test_parameters_that_do_not_reach_the_loss_or_are_not_trained():
    frozen, trained = nn.Dense(4), nn.Dense(2)
    examples = normal(N, 3)
    fixed = frozen.init(KEYS[0], examples)
    params = {
        "used": trained.init(KEYS[1], jnp.zeros((1, 4))),
        "idle": jnp.ones(3),
    }

    def loss(key: Any, params: Any, examples: Any) -> Any:
        hidden: Any = frozen.apply(fixed, examples)
        outputs: Any = trained.apply(params["used"], hidden)
        return jnp.sum(outputs**2, axis=1)

    check(loss, params, examples)
