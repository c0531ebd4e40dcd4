"""What the server makes of a cohort's updates, as parts."""

from __future__ import annotations

from typing import Literal, Protocol

from ppml_lab import base, federated
from ppml_lab.lab.tree.part import part


class Rule(Protocol):
    """A part that says what is made of a cohort's updates."""

    @property
    def weighting(self) -> str:
        """How they count; see `federated.averaging`."""
        ...

    def build(self, summed: base.SecureAggregator) -> base.SecureAggregator:
        """What the server makes of messages that this secure sum would add up.

        A rule that needs each of them (`base.SecureAggregator.needs`) is refused where
        the sum shows no more than itself.
        """
        ...


@part
class Mean:
    """The mean of updates."""

    weighting: Literal["uniform", "realised", "examples"] = "uniform"
    """Whether clients count the same (the mean divides by the expected or by the
    realised number of reports) or by their examples."""

    def build(self, summed: base.SecureAggregator) -> base.SecureAggregator:
        """The sum itself, which averaging divides."""
        return summed


@part
class Median:
    """The median of updates in each coordinate; Yin et al., ICML 2018."""

    @property
    def weighting(self) -> str:
        """Clients count the same."""
        return "uniform"

    def build(self, summed: base.SecureAggregator) -> base.SecureAggregator:
        """See `federated.coordinate_median`."""
        return federated.coordinate_median(summed, name="Median")


@part
class TrimmedMean:
    """The mean of updates in each coordinate without its lowest and its highest; Yin et
    al., ICML 2018.
    """

    num_trimmed: int = 1
    """How many are left out at each end."""

    @property
    def weighting(self) -> str:
        """Clients count the same."""
        return "uniform"

    def build(self, summed: base.SecureAggregator) -> base.SecureAggregator:
        """See `federated.trimmed_mean`."""
        return federated.trimmed_mean(self.num_trimmed, summed, name="TrimmedMean")
