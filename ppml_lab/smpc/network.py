"""The links between parties, and how long messages take on them.

Between computing parties a round is one exchange: all send at once, and nobody waits
for an answer to its own message. With clients a round goes to the server and back.
"""

from __future__ import annotations

from typing import NamedTuple

from ppml_lab import arguments, checks


class Network(NamedTuple):
    """The links between parties, all alike.

    Attributes:
      bandwidth_bits_per_second: Bandwidth of a party's link, in each direction.
      round_trip_seconds: Time from a message to its answer.
    """

    bandwidth_bits_per_second: float
    round_trip_seconds: float


# The settings of TF Encrypted's benchmarks, from its README.
LAN = Network(40e9, 0.02e-3)
WAN = Network(352e6, 40e-3)


@arguments.checked
def seconds(
    busiest_bits: int, network: Network, *, exchanges: int = 0, round_trips: int = 0
) -> float:
    """The seconds that messages take: latency, and the bits of the busiest link.

    Assumes that every party has a link of the same bandwidth that sends and receives at
    once, that links are never shared and never lose anything, that a message takes half
    a round trip, that a round starts when the last one is complete, and that computing
    takes no time.

    Args:
      busiest_bits: Bits of the busiest link: the most that one party sends or receives.
      network: `LAN`, `WAN` or another.
      exchanges: Rounds of messages in one direction that wait for each other, as among
        computing parties: half a round trip each.
      round_trips: Rounds of a message and its answer, as between clients and a server.

    Raises:
      ValueError: If the bandwidth is not positive, or anything else is negative.
    """
    bandwidth, round_trip = network
    checks.positive("bandwidth_bits_per_second", bandwidth, allow_inf=True)
    checks.non_negative("round_trip_seconds", round_trip)
    checks.at_least("exchanges", exchanges, 0)
    checks.at_least("round_trips", round_trips, 0)
    checks.non_negative("busiest_bits", busiest_bits)
    waits = exchanges + 2 * round_trips
    return waits * round_trip / 2 + busiest_bits / bandwidth
