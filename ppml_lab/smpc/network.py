"""The links between parties, and how long messages take on them."""

from __future__ import annotations

from typing import NamedTuple

from ppml_lab import checks


class Network(NamedTuple):
    """The links between parties, all alike.

    Attributes:
      bandwidth_bits_per_second: Of a party's link, in each direction.
      round_trip_seconds: From a message to its answer.
    """

    bandwidth_bits_per_second: float
    round_trip_seconds: float


# The settings of TF Encrypted's benchmarks, from its README.
LAN = Network(40e9, 0.02e-3)
WAN = Network(352e6, 40e-3)


def seconds(num_rounds: int, busiest_bits: int, network: Network) -> float:
    """A round trip per round, and the bits of the busiest link.

    Assumes that every party has a link of the same bandwidth that sends and receives at
    once, that links are never shared and never lose anything, that a round starts when
    the last one is complete, and that computing takes no time.

    Raises:
      ValueError: If the bandwidth is not positive or the round trip is negative.
    """
    bandwidth, round_trip = network
    checks.positive("bandwidth_bits_per_second", bandwidth, allow_inf=True)
    checks.non_negative("round_trip_seconds", round_trip)
    return num_rounds * round_trip + busiest_bits / bandwidth
