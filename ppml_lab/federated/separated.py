"""Sampling with a minimum separation: members take turns."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int, UInt32

from ppml_lab import arguments, base, checks, guards, random
from ppml_lab.federated.sampling import check_release

_MOST_MEMBERS = 2**30


class Turn(NamedTuple):
    """The sampler's state: the next turn.

    Attributes:
      order: Seed words of the order in which members take turns, a permutation.
      first: The place in that order of the next cohort's first member.
    """

    order: UInt32[Array, " 2"]
    first: Int[Array, ""]


@arguments.checked
@guards.returned(
    event=check_release, state=guards.one_of(Turn, "`init` makes the first")
)
def min_separation(
    population: int, cohort_size: int, separation: int | None = None
) -> base.ClientSampler:
    """A sampler by which members take turns, `cohort_size` at a time, in a random order
    that a run keeps.

    The numbers of two rounds of one member differ by at least `population //
    cohort_size`, and all members take part equally often, give or take once. Correlated
    noise is accounted by this pattern (`dp.correlated_gaussian`); under independent
    noise each member pays only for its own rounds. The state is the seed of the order
    and a place in it, whatever the population.

    **Guarantee:** no amplification, and none is needed: everybody may know who takes
    part when, and what is claimed holds for every order. Neighbours have nothing in a
    member's place ("zero_out"); the place stays, so that nobody else's turn depends on
    it. A member that drops out waits for its next turn.

    Args:
      population: Number of members, at most 2^30.
      cohort_size: Number of participants in every round.
      separation: The least separation: each member takes part at most once in any
        `separation` rounds in a row. The sampler keeps, and states, the largest
        separation that the sizes allow.

    Raises:
      ValueError: For sizes below 1, or a population too small for them.
    """
    checks.within("population", population, 1, _MOST_MEMBERS)
    checks.at_least("cohort_size", cohort_size, 1)
    asked = 1 if separation is None else separation
    checks.at_least("separation", asked, 1)
    if asked * cohort_size > population:
        raise ValueError(
            f"separation {asked} times cohort_size {cohort_size} is "
            f"{asked * cohort_size}, more than the population {population}, so that "
            "members would come again too soon; take sizes with a product of at most "
            f"{population}"
        )

    def init(key: base.Key) -> Turn:
        return Turn(random.seed(key), jnp.int32(0))

    def sample(key: base.Key, state: Turn) -> tuple[base.Cohort, Turn]:
        # The order is drawn once, at the start: a round's key draws nobody.
        places = (state.first + jnp.arange(cohort_size, dtype=jnp.int32)) % population
        order = jax.random.wrap_key_data(state.order, impl="threefry2x32")
        members = random.permute(order, places, population)
        following = (state.first + cohort_size) % population
        cohort = base.Cohort(members, jnp.ones(cohort_size, jnp.float32))
        return cohort, state._replace(first=following)

    @arguments.checked
    def participation(num_rounds: int) -> base.Participation:
        checks.at_least("num_rounds", num_rounds, 1)
        return base.Participation(
            "member",
            min_separation=population // cohort_size,
            max_participations=-(-num_rounds * cohort_size // population),
            sampling_prob=1.0 if cohort_size == population else None,
        )

    return base.ClientSampler(
        init=init,
        sample=sample,
        amplify=lambda event: event,
        participation=participation,
        expected_cohort=float(cohort_size),
        max_cohort=cohort_size,
        population=population,
        neighboring_relation="zero_out",
    )
