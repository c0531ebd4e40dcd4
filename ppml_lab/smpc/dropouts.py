"""Who is still there after each round of a secure aggregation protocol.

The four rounds are those of Bonawitz et al. 2017 and of LightSecAgg (So et al. 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, UInt32

from ppml_lab import random


class Alive(NamedTuple):
    """Who is still there after each round of the protocol, each a part of the one
    before.

    Attributes:
      advertised: Joined and sent a public key.
      shared: Sent shares of its secrets, or coded pieces of its mask, to the others.
      uploaded: Sent a masked input: the sum is over these.
      unmasked: Answered the server's request for what removes the masks.
    """

    advertised: Bool[Array, " clients"]
    shared: Bool[Array, " clients"]
    uploaded: Bool[Array, " clients"]
    unmasked: Bool[Array, " clients"]


def nested(
    advertised: Bool[Array, " clients"],
    shared: Bool[Array, " clients"],
    uploaded: Bool[Array, " clients"],
    unmasked: Bool[Array, " clients"],
) -> Alive:
    """Who stays if nobody comes back: each round only has those of the round before."""
    shared = advertised & shared
    uploaded = shared & uploaded
    return Alive(advertised, shared, uploaded, uploaded & unmasked)


def everybody(num_clients: int) -> Alive:
    """No dropouts."""
    return nested(*[jnp.ones(num_clients, bool)] * 4)


def drop_out(
    seed: UInt32[Array, " 2"],
    num_clients: int,
    dropout_probs: Float[Array, " 4"] | Sequence[float],
) -> Alive:
    """Draws who drops out; in each of the four rounds everybody who is left does so on
    their own with that round's probability.
    """
    words = random.words(seed, 4 * num_clients).reshape(4, num_clients)
    unit = (words >> jnp.uint32(8)).astype(jnp.float32) * np.float32(2.0**-24)
    stays = unit >= jnp.asarray(dropout_probs, jnp.float32)[:, None]
    return nested(*stays)
