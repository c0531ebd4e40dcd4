"""The models of McMahan et al., "Communication-Efficient Learning of Deep Networks from
Decentralized Data", AISTATS 2017, and logistic regression, as flax modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from ppml_lab import arguments, checks
from ppml_lab.models.conv import conv_general_dilated


class MLP(nn.Module):
    """A ReLU network on flattened inputs; `features` are layer widths, logits last."""

    features: Sequence[int]
    logits_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    def __post_init__(self) -> None:
        if not isinstance(self.features, Sequence) or isinstance(
            self.features, str | bytes
        ):
            raise ValueError(
                f"features must be a sequence of widths, got {self.features!r}"
            )
        if not self.features:
            raise ValueError("features is empty; give the widths of layers")
        for layer, width in enumerate(self.features):
            checks.at_least(f"features[{layer}]", width, 1)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "n *shape"]) -> Float[Array, "n classes"]:
        x = x.reshape(x.shape[0], -1)
        for width in self.features[:-1]:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.features[-1], kernel_init=self.logits_init)(x)


class BatchNormMLP(nn.Module):
    """An `MLP` with a BatchNorm before every ReLU, for `personal` models.

    With `training` it normalises by the batch and moves its running statistics;
    otherwise it normalises by the running statistics.
    """

    features: Sequence[int]
    training: bool = False
    momentum: float = 0.9

    def __post_init__(self) -> None:
        MLP(self.features)  # which checks them
        if not isinstance(self.training, bool):
            raise ValueError(f"training must be a truth value, got {self.training!r}")
        checks.probability("momentum", self.momentum, allow_one=False)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "n *shape"]) -> Float[Array, "n classes"]:
        x = x.reshape(x.shape[0], -1)
        for width in self.features[:-1]:
            norm = nn.BatchNorm(not self.training, momentum=self.momentum)
            x = nn.relu(norm(nn.Dense(width)(x)))
        return nn.Dense(self.features[-1])(x)


@arguments.checked
def logistic(num_classes: int) -> MLP:
    """Multinomial logistic regression, starting from zero, as the loss is convex and
    random weights would only be noise to unlearn.
    """
    checks.at_least("num_classes", num_classes, 2)
    return MLP((num_classes,), nn.initializers.zeros_init())


@arguments.checked
def linear(num_outputs: int) -> MLP:
    """Linear regression, starting from zero; also the linear hazards of `survival`."""
    checks.at_least("num_outputs", num_outputs, 1)
    return MLP((num_outputs,), nn.initializers.zeros_init())


@arguments.checked
def two_nn(num_classes: int) -> MLP:
    """McMahan's 2NN: two hidden layers of 200 (199,210 parameters on MNIST)."""
    checks.at_least("num_classes", num_classes, 2)
    return MLP((200, 200, num_classes))


def _check_images(module: nn.Module, x: Array) -> None:
    if x.ndim != 4:
        raise ValueError(
            f"{type(module).__name__} takes images [n, height, width, channels], got "
            f"{list(x.shape)}; give grey images a last axis of 1, in input_shape too"
        )


def _flat(module: nn.Module, x: Float[Array, "n h w c"]) -> Float[Array, "n features"]:
    if x.shape[1] * x.shape[2] == 0:
        raise ValueError(
            f"images are too small for {type(module).__name__}: its convolutions leave "
            f"{x.shape[1]}x{x.shape[2]} pixels; give larger images"
        )
    return x.reshape(x.shape[0], -1)


def halved(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """Max-pooling of 2x2 blocks; an odd last row or column is left out.

    It takes maxima of slices, as the gradient of XLA's pooling is slow on CPU.
    """
    rows, columns = 2 * (x.shape[1] // 2), 2 * (x.shape[2] // 2)
    x = jnp.maximum(x[:, 0:rows:2], x[:, 1:rows:2])
    return jnp.maximum(x[:, :, 0:columns:2], x[:, :, 1:columns:2])


class CNN(nn.Module):
    """McMahan's CNN: 5x5x32, pool, 5x5x64, pool, 512: 1,663,370 parameters on MNIST.

    Its `convolution` stays fast in loops and over clients; any convolution with the
    signature of `lax.conv_general_dilated` gives the same numbers.
    """

    num_classes: int
    convolution: Callable[..., Array] = conv_general_dilated

    def __post_init__(self) -> None:
        checks.at_least("num_classes", self.num_classes, 2)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "n *shape"]) -> Float[Array, "n classes"]:
        _check_images(self, x)
        for channels in (32, 64):
            layer = nn.Conv(channels, (5, 5), conv_general_dilated=self.convolution)
            x = nn.relu(halved(layer(x)))
        x = nn.relu(nn.Dense(512)(_flat(self, x)))
        return nn.Dense(self.num_classes)(x)


def max_of_neighbours(x: Float[Array, "n h w c"]) -> Float[Array, "n h1 w1 c"]:
    """Max-pooling of the 2x2 block at every place, with stride 1."""
    x = jnp.maximum(x[:, :-1], x[:, 1:])
    return jnp.maximum(x[:, :, :-1], x[:, :, 1:])


class TutorialCNN(nn.Module):
    """The CNN of the DP-SGD tutorials of TensorFlow Privacy and Opacus for MNIST:
    8x8x16, pool, 4x4x32, pool, 32: 26,010 parameters.

    Both convolutions have stride 2, both pools stride 1. With tanh it is the CNN of
    Papernot, Thakurta, Song, Chien, Erlingsson, "Tempered Sigmoid Activations for Deep
    Learning with Differential Privacy", AAAI 2021.
    """

    num_classes: int
    convolution: Callable[..., Array] = conv_general_dilated
    activation: Callable[[Array], Array] = nn.relu

    def __post_init__(self) -> None:
        checks.at_least("num_classes", self.num_classes, 2)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "n *shape"]) -> Float[Array, "n classes"]:
        _check_images(self, x)
        for channels, size, padding in ((16, 8, "SAME"), (32, 4, "VALID")):
            layer = nn.Conv(
                channels,
                (size, size),
                strides=2,
                padding=padding,
                conv_general_dilated=self.convolution,
            )
            x = max_of_neighbours(self.activation(layer(x)))
        x = self.activation(nn.Dense(32)(_flat(self, x)))
        return nn.Dense(self.num_classes)(x)


class LeNet(nn.Module):
    """The CNN of NIID-Bench (Li, Diao, Chen, He, ICDE 2022): 5x5x6, pool, 5x5x16, pool,
    120, 84: 44,426 parameters on MNIST.
    """

    num_classes: int
    convolution: Callable[..., Array] = conv_general_dilated

    def __post_init__(self) -> None:
        checks.at_least("num_classes", self.num_classes, 2)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "n *shape"]) -> Float[Array, "n classes"]:
        _check_images(self, x)
        for channels in (6, 16):
            layer = nn.Conv(
                channels, (5, 5), padding="VALID", conv_general_dilated=self.convolution
            )
            x = nn.relu(halved(layer(x)))
        x = _flat(self, x)
        for width in (120, 84):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.num_classes)(x)
