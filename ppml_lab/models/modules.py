"""The models of McMahan et al., "Communication-Efficient Learning of Deep Networks from
Decentralized Data", AISTATS 2017, and logistic regression, as flax modules.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
from jax import Array
from jaxtyping import Float


class MLP(nn.Module):
    """A ReLU network on flattened inputs; `features` are layer widths, logits last."""

    features: Sequence[int]
    logits_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "n *shape"]) -> Float[Array, "n classes"]:
        x = x.reshape(x.shape[0], -1)
        for width in self.features[:-1]:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.features[-1], kernel_init=self.logits_init)(x)


def logistic(num_classes: int) -> MLP:
    """Multinomial logistic regression, starting from zero: the loss is convex, and
    random weights would only be noise to unlearn.
    """
    return MLP((num_classes,), nn.initializers.zeros_init())


def two_nn(num_classes: int) -> MLP:
    """McMahan's 2NN: two hidden layers of 200 (199,210 parameters on MNIST)."""
    return MLP((200, 200, num_classes))


class CNN(nn.Module):
    """McMahan's CNN: 5x5x32, pool, 5x5x64, pool, 512: 1,663,370 parameters on MNIST."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
        for channels in (32, 64):
            x = nn.relu(nn.Conv(channels, (5, 5), padding="SAME")(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(512)(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.num_classes)(x)
