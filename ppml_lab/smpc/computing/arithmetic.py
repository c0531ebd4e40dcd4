"""Products of shared values: elementwise, of matrices, of images and kernels.

Additive shares are multiplied with Beaver's triples (Beaver, "Efficient Multiparty
Protocols Using Circuit Randomization", CRYPTO 1991) from a dealer who sees no input;
replicated ones as by Araki et al., CCS 2016, each party's product masked with a sharing
of zero. A product's scale is the product of the scales: `truncation` brings it back.

**Guarantee:** semi-honest parties. What a party receives is uniform and independent of
all secrets, whatever its own shares: opened operands are masked with shares of a triple
that is used once; resent products are masked with a fresh zero. Nobody is kept from
cheating (`authenticated` detects it), the emulation holds all shares in one place, and
its generator is not cryptographic.

The emulation knows the product: one share is the product minus all other shares, the
same word that the share's party would compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ppml_lab.smpc import products, streams, transcript
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc import scheme as schemes
from ppml_lab.smpc.ring import Element, Ring
from ppml_lab.smpc.scheme import Scheme, Shared, shape_of
from ppml_lab.smpc.streams import Source

Product = Callable[[Ring, Element, Element], Element]


def multiply(seed: Source, one: Shared, other: Shared) -> Shared:
    """The product of each pair; shapes broadcast. One round.

    Args:
      seed: A seed `[2]` of randomness that nothing else uses, or a stream of it.
      one: A value.
      other: Another value, shared alike except for its scale.

    Raises:
      ValueError: If the two are not shared alike, or by Shamir's scheme.
    """
    rank = max(len(shape_of(one)), len(shape_of(other)))
    one, other = (
        Shared(schemes.at_rank(value.shares, rank), value.scheme)
        for value in (one, other)
    )
    return _product(
        "multiply", seed, one, other, lambda ring, a, b: ring.multiply(a, b)
    )


def matmul(seed: Source, left: Shared, right: Shared) -> Shared:
    """The product of matrices `[n, t]` and `[t, d]`. One round; see `multiply`."""
    return _product("matmul", seed, left, right, products.matmul)


def dot_general(
    seed: Source, left: Shared, right: Shared, dims: products.DotDims
) -> Shared:
    """`lax.dot_general` of shared values. One round; see `multiply`."""

    def product(ring: Ring, a: Element, b: Element) -> Element:
        return products.dot_general(ring, a, b, dims)

    return _product("dot", seed, left, right, product)


def convolution(
    seed: Source, images: Shared, kernel: Shared, strides: Sequence[int], padding: Any
) -> Shared:
    """The convolution of images `[n, h, w, c]` by a kernel `[rows, columns, c, d]`.

    One round, in which masked images are opened as they are and not as patches; see
    `multiply`.
    """

    def product(ring: Ring, a: Element, b: Element) -> Element:
        return products.convolution(ring, a, b, strides, padding)

    return _product("convolution", seed, images, kernel, product)


def public_product(
    shared: Shared, public: Element, product: Callable[[Element, Element], Element]
) -> Shared:
    """The bilinear `product(share, public)`, which every party computes for itself."""
    shares = jax.vmap(lambda share: product(share, public))(shared.shares)
    return Shared(shares, shared.scheme)


def bilinear(
    name: str, seed: Source, one: Shared, other: Shared, product: Product
) -> Shared:
    """The value of `product(ring, one, other)`, which is linear in either operand.

    One round, noted under `name`, in which both operands are opened as they are, but
    masked; see `multiply`.
    """
    return _product(name, seed, one, other, product)


def _product(
    name: str, seed: Source, one: Shared, other: Shared, product: Product
) -> Shared:
    scheme = one.scheme
    schemes.check_kind(scheme, "additive", "replicated")
    scale = schemes.product_scale(scheme.scale, other.scheme.scale)
    schemes.check_same(scheme, other.scheme._replace(scale=scheme.scale))
    out = scheme._replace(scale=scale)
    ring = scheme.ring
    if not scheme.ideal:
        one, other = (
            Shared(rings.materialised(value.shares), value.scheme)
            for value in (one, other)
        )
    whole = product(
        ring, rings.total(ring, one.shares), rings.total(ring, other.shares)
    )
    protocol = _resent if scheme.kind == "replicated" else _beaver
    with transcript.scope(name):
        return protocol(seed, one, other, product, whole, out)


def _beaver(
    seed: Source,
    one: Shared,
    other: Shared,
    product: Product,
    whole: Element,
    scheme: Scheme,
) -> Shared:
    """Beaver's product: opens both operands masked; every share is then local."""
    ring, parties = scheme.ring, scheme.num_parties
    deal("triple", ring, rings.shape_of(whole))
    if scheme.ideal:
        send_to_all("opened", scheme, shape_of(one), shape_of(other))
        return Shared(_alone(whole), scheme)
    # Shares of the triple's product are uniform, but for the dealer's correction.
    *masks, c = draws(
        seed,
        ring,
        (parties, *shape_of(one)),
        (parties, *shape_of(other)),
        (parties - 1, *rings.shape_of(whole)),
    )
    opened = [
        rings.total(ring, ring.subtract(value.shares, mask))
        for value, mask in zip((one, other), masks, strict=True)
    ]
    send_to_all("opened", scheme, shape_of(one), shape_of(other), values=opened)

    def share(a: Element, b: Element, c: Element) -> Element:
        by_masks = ring.add(product(ring, opened[0], b), product(ring, a, opened[1]))
        return ring.add(by_masks, c)

    a, b = (jax.tree.map(lambda leaf: leaf[1:], mask) for mask in masks)
    return completed(whole, jax.vmap(share)(a, b, c), scheme)


def _resent(
    seed: Source,
    one: Shared,
    other: Shared,
    product: Product,
    whole: Element,
    scheme: Scheme,
) -> Shared:
    """The replicated product: parties multiply the summands they hold, then resend."""
    ring, shape = scheme.ring, rings.shape_of(whole)
    if scheme.ideal:
        resend("resent", scheme, shape)
        return Shared(_alone(whole), scheme)
    (zeros,) = draws(seed, ring, (2, *shape))

    def share(x: Element, x_next: Element, y: Element, y_next: Element) -> Element:
        return ring.add(product(ring, x, ring.add(y, y_next)), product(ring, x_next, y))

    # The summands of the last two parties, and the ones after these.
    mine, following = (
        [
            jax.tree.map(lambda leaf, k=k: leaf[k], value.shares)
            for value in (one, other)
        ]
        for k in (slice(1, 3), slice(None, None, -2))
    )
    others = jax.vmap(share)(mine[0], following[0], mine[1], following[1])
    result = completed(whole, ring.add(others, zeros), scheme)
    resend("resent", scheme, shape, value=result.shares)
    return result


def draws(seed: Source, ring: Ring, *shapes: tuple[int, ...]) -> list[Element]:
    """Uniform elements of several shapes, for masks."""
    stream = streams.of(seed)
    return [stream.masks(ring, shape) for shape in shapes]


def completed(whole: Element, others: Element, scheme: Scheme) -> Shared:
    """All shares of a value, given all shares but the first."""
    first = scheme.ring.subtract(whole, rings.total(scheme.ring, others))
    shares = jax.tree.map(lambda f, o: jnp.concatenate([f[None], o]), first, others)
    return Shared(rings.materialised(shares), scheme)


def dealt(seed: Source, name: str, value: Element, scheme: Scheme) -> Shared:
    """Shares of a value that a dealer chose before there were inputs."""
    shape = rings.shape_of(value)
    deal(name, scheme.ring, shape)
    if scheme.ideal:
        return Shared(_alone(value), scheme)
    (others,) = draws(seed, scheme.ring, (scheme.num_parties - 1, *shape))
    return completed(value, others, scheme)


def deal(name: str, ring: Ring, shape: tuple[int, ...]) -> None:
    """Notes what a dealer sends: the correction of the first party's share.

    All shares are expanded from seeds that parties have.
    """
    bits = ring.bits * math.prod(shape)
    transcript.record_message(name, "dealer", 0, bits, offline=True)


def send_to_all(
    name: str,
    scheme: Scheme,
    *shapes: tuple[int, ...],
    values: Sequence[Element] = (),
) -> None:
    """Notes that additive shares are opened to all parties, in one round."""
    bits = scheme.ring.bits * sum(map(math.prod, shapes))
    parties = range(scheme.num_parties)
    for sender in parties:
        for receiver in parties:
            if sender != receiver:
                transcript.record_message(name, sender, receiver, bits)
    for value in () if scheme.ideal else values:
        transcript.record_view(name, tuple(parties), value)


def resend(
    name: str, scheme: Scheme, shape: tuple[int, ...], value: Element | None = None
) -> None:
    """Notes that each party sends its summand to the one before it, in one round."""
    bits = scheme.ring.bits * math.prod(shape)
    for party in range(3):
        transcript.record_message(name, party, (party - 1) % 3, bits)
        if value is not None:
            summand = jax.tree.map(lambda leaf, p=party: leaf[p], value)
            transcript.record_view(name, ((party - 1) % 3,), summand)


def _alone(value: Element) -> Element:
    return jax.tree.map(lambda leaf: leaf[None], value)
