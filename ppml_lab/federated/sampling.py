"""Samplers of a round's participants, with their privacy amplification.

The same samplers draw clients for a round and examples for a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Bool, Int, PyTree, UInt32

from ppml_lab import arguments, base, checks, guards, random
from ppml_lab.data import storage
from ppml_lab.federated import devices

OVERFLOW_PROBABILITY = 1e-18
"""The default chance per draw that a Poisson sample outgrows its arrays and is cut off.
"""

_BLOCK = 256
"""Number of members whose coins are counted together where few of many are drawn."""


def check_release(name: str, value: Any) -> None:
    """Checks for an event that sampling can amplify."""
    from ppml_lab.dp import given

    del name
    given.check_event(value)


@arguments.checked
@guards.returned(event=check_release)
def everyone(population: int) -> base.ClientSampler:
    """A sampler by which everybody takes part: no amplification, add-or-remove
    neighbours.

    Raises:
      ValueError: If population is below 1.
    """
    checks.at_least("population", population, 1)
    everybody = base.Cohort(
        jnp.arange(population, dtype=jnp.int32), jnp.ones(population, jnp.float32)
    )
    return base.ClientSampler(
        init=lambda key: (),
        sample=lambda key, state: (everybody, state),
        amplify=lambda event: event,
        participation=_any_rounds(1.0),
        expected_cohort=float(population),
        max_cohort=population,
        population=population,
        neighboring_relation="add_or_remove_one",
    )


@arguments.checked
@guards.returned()
def fixed_size(
    population: int, cohort_size: Any, max_cohort: int | None = None
) -> base.ClientSampler:
    """A sampler that draws exactly `cohort_size` members, uniformly without
    replacement.

    **Guarantee:** the amplification of uniform sampling without replacement under
    replace-one neighbours (Wang, Balle, Kasiviswanathan, AISTATS 2019), accounted by
    RDP; there is no PLD for it. If words are uniform, the sampling by `random.distinct`
    is uniform within a factor of `exp(+-cohort_size * population / 2^63)`; this adds at
    most twice the exponent to a round's epsilon (2e-10 for 1,000 of a million), which
    the event leaves out. dp/FIXED_SIZE.md says what is proven, and the cost beside
    Poisson sampling.

    Args:
      population: Number of members.
      cohort_size: Number of participants; where `max_cohort` is given it may be a
        traced float32.
      max_cohort: The length of a cohort's arrays, `cohort_size` by default.

    Raises:
      ValueError: If the cohort is empty or larger than its arrays, or the arrays are
        larger than the population.
    """
    checks.at_least("cohort_size", cohort_size, 1)
    max_cohort = cohort_size if max_cohort is None else max_cohort
    if checks.is_traced(max_cohort):
        raise ValueError(
            "a traced cohort_size needs max_cohort, the length of a cohort's arrays"
        )
    if max_cohort > population:
        raise ValueError(
            f"cohort_size {max_cohort} is larger than the population {population}; "
            f"choose at most {population}"
        )
    if not checks.is_traced(cohort_size) and cohort_size > max_cohort:
        raise ValueError(
            f"cohort_size {cohort_size} is larger than max_cohort {max_cohort}; raise "
            "max_cohort"
        )

    expected = cohort_size if checks.is_traced(cohort_size) else float(cohort_size)

    @arguments.checked
    def sample(key: base.Key, state: PyTree) -> tuple[base.Cohort, PyTree]:
        places = jnp.arange(max_cohort, dtype=jnp.int32)
        indices = random.distinct(random.seed(key), max_cohort, population)
        taken = places < jnp.asarray(cohort_size).astype(jnp.int32)
        return base.Cohort(indices, taken.astype(jnp.float32)), state

    def amplify(event: Any) -> Any:
        from ppml_lab.dp import events

        return events.fixed_size(population, cohort_size, event)

    return base.ClientSampler(
        init=lambda key: (),
        sample=sample,
        amplify=amplify,
        participation=_any_rounds(expected / population),
        expected_cohort=expected,
        max_cohort=max_cohort,
        population=population,
        neighboring_relation="replace_one",
    )


@arguments.checked
@guards.returned()
def poisson(
    population: int,
    sampling_prob: Any,
    mesh: Mesh | None = None,
    *,
    overflow_prob: float = OVERFLOW_PROBABILITY,
) -> base.ClientSampler:
    """A sampler that draws each member independently with probability `sampling_prob`.

    The cohort's arrays hold every sample except the largest, which occur with
    probability `overflow_prob`, by default 10^-18, and are cut off. Each member has a
    coin of its own with a resolution of 64 bits, so that devices can toss the coins of
    their own members, and rare members have the right chance.

    **Guarantee:** Poisson amplification under add-or-remove neighbours (Mironov,
    Talwar, Zhang, 2019), up to `overflow_prob` per draw, which the event states and
    accounting adds to delta. That is enough: where the members that both neighbours
    have leave a free place in the arrays, nothing is cut off for either neighbour; they
    leave none with that probability for both, whoever else is there. Averages divide by
    the expected cohort, which is public, never by the realised one.

    Args:
      population: Number of members.
      sampling_prob: Each member's chance in a draw; a number, of any type, known when
        the sampler is built.
      mesh: If given, each of the devices along its axis "clients" tosses the coins of
        the members that it owns (`data.shard`); the sample is the same to the bit.
      overflow_prob: Chance that a draw is cut off, in (0, 1); every draw of a run
        spends this much of delta. The smaller it is, the longer the arrays, by a
        little.

    Raises:
      ValueError: If the population is empty, or sampling_prob outside (0, 1] or traced,
        or overflow_prob outside (0, 1).
    """
    checks.at_least("population", population, 1)
    sampling_prob = _known_prob("sampling_prob", sampling_prob, allow_one=True)
    overflow_prob = _known_prob("overflow_prob", overflow_prob, allow_one=False)
    max_cohort = largest_poisson_sample(population, sampling_prob, overflow_prob)

    def draw(device: Array, num_devices: int, seed: UInt32[Array, " 2"]) -> base.Cohort:
        share = -(-population // num_devices)
        first, end = storage.owned_range(device, num_devices, population)

        def tossed(places: Array) -> Array:
            members = first + places
            return _coins(seed, members, sampling_prob) & (members < end)

        size = min(share, max_cohort)
        if size * _BLOCK < share:
            cohort = _few_drawn(tossed, share, size)
        else:
            cohort = drawn_to_cohort(tossed(jnp.arange(share, dtype=jnp.int32)), size)
        return cohort._replace(indices=cohort.indices + first)

    def join(mine: base.Cohort) -> base.Cohort:
        indices, weights = jax.tree.map(jnp.ravel, devices.gather(mine))
        places = drawn_to_cohort(weights > 0, max_cohort)
        return places._replace(indices=indices[places.indices])

    @arguments.checked
    def sample(key: base.Key, state: PyTree) -> tuple[base.Cohort, PyTree]:
        return devices.over_devices(draw, join, mesh, random.seed(key)), state

    def amplify(event: Any) -> Any:
        from ppml_lab.dp import events

        cut = overflow_prob if max_cohort < population else 0.0
        return events.failing(events.poisson(sampling_prob, event), cut)

    return base.ClientSampler(
        init=lambda key: (),
        sample=sample,
        amplify=amplify,
        participation=_any_rounds(float(sampling_prob)),
        expected_cohort=population * sampling_prob,
        max_cohort=max_cohort,
        population=population,
        neighboring_relation="add_or_remove_one",
    )


def _any_rounds(sampling_prob: Any) -> Callable[[int], base.Participation]:
    """The pattern of cohorts that are drawn independently in every round."""

    @arguments.checked
    def participation(num_rounds: int) -> base.Participation:
        checks.at_least("num_rounds", num_rounds, 1)
        return base.Participation("member", 1, num_rounds, sampling_prob)

    return participation


def _coins(
    seed: UInt32[Array, " 2"], members: Int[Array, "*n"], prob: float
) -> Bool[Array, "*n"]:
    """True for members whose 64-bit fraction lies below `prob`."""
    if prob == 1:
        return jnp.ones(members.shape, bool)
    high, low = divmod(int(Fraction(prob) * 2**64), 2**32)
    a, b = random.threefry2x32(seed, jnp.zeros_like(members), members)
    return (a < np.uint32(high)) | ((a == np.uint32(high)) & (b < np.uint32(low)))


def _few_drawn(
    tossed: Callable[[Array], Array], length: int, max_cohort: int
) -> base.Cohort:
    """Gives `drawn_to_cohort(tossed(arange(length)), max_cohort)` for few drawn among
    many, without an array of all members. Coins are counted by block, and the coins of
    blocks with drawn members are tossed again.
    """
    num_blocks = -(-length // _BLOCK)
    starts = _BLOCK * jnp.arange(num_blocks, dtype=jnp.int32)
    inside = jnp.arange(_BLOCK, dtype=jnp.int32)
    counts = jnp.sum(tossed(starts[:, None] + inside), axis=1, dtype=jnp.int32)
    ends = jnp.cumsum(counts)
    places = jnp.arange(max_cohort, dtype=jnp.int32)
    block = jnp.searchsorted(ends, places, side="right")
    block = jnp.minimum(block, num_blocks - 1)
    before = places - (ends - counts)[block]
    found = jnp.cumsum(tossed(starts[block][:, None] + inside), axis=1)
    indices = starts[block] + jnp.argmax(found > before[:, None], axis=1)
    present = places < ends[-1]
    return base.Cohort(
        jnp.where(present, indices, 0).astype(jnp.int32), present.astype(jnp.float32)
    )


def _known_prob(name: str, value: Any, *, allow_one: bool) -> float:
    """Converts a probability of any numeric type to a Python float; refuses traced
    ones.
    """
    if checks.is_traced(value):
        raise ValueError(
            f"{name} must be known when the sampler is built, as {name} sets the "
            "length of a cohort's arrays; pass a number"
        )
    checks.number(name, value)
    prob = float(value)
    checks.probability(name, prob, allow_one=allow_one)
    return prob


def largest_poisson_sample(
    population: int,
    sampling_prob: float,
    overflow_prob: float = OVERFLOW_PROBABILITY,
) -> int:
    """The smallest size that a Poisson sample reaches with probability at most
    `overflow_prob`, or the population.
    """
    from scipy import special

    # P(size >= k); SciPy's own quantile gives up below 1e-16.
    low, high = 0, population
    while high - low > 1:
        middle = (low + high) // 2
        if special.betainc(middle, population - middle + 1, sampling_prob) > (
            overflow_prob
        ):
            low = middle
        else:
            high = middle
    return high


def drawn_to_cohort(drawn: Bool[Array, " population"], max_cohort: int) -> base.Cohort:
    """The members drawn, in order, padded (or cut off) to `max_cohort`."""
    (indices,) = jnp.nonzero(drawn, size=max_cohort, fill_value=0)
    present = jnp.arange(max_cohort) < jnp.sum(drawn, dtype=jnp.int32)
    return base.Cohort(indices.astype(jnp.int32), present.astype(jnp.float32))
