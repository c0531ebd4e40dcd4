"""The cost of a client's own noise in a run: a client pays where it takes part."""

from __future__ import annotations

from typing import Any

from ppml_lab import base


def over_rounds(event: Any, sampler: base.ClientSampler, num_rounds: int) -> Any:
    """The `DpEvent` of a run for a client whose every participation costs `event`.

    Everybody sees when the client takes part. Where the probability of taking part is
    the same in each round, whatever happens in others, the event is an
    `events.participating` in every round. Where rounds depend on each other, as turns
    do, the event is the most participations that anyone may have, whatever their
    probability.
    """
    from ppml_lab.dp import events

    pattern = sampler.participation(num_rounds)
    if pattern.sampling_prob is None:
        return events.participating(
            1.0, events.compose(event, pattern.max_participations)
        )
    taken = events.participating(pattern.sampling_prob, event)
    return events.compose(taken, num_rounds)
