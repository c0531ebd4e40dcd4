"""The shared types of the lab: how data, learning, privacy and secure sums meet.

Builders take hyperparameters and return these NamedTuples of pure functions. What a
function does is said once, below its field. Arguments are positional, as named there.
Every function raises ValueError, naming the argument, unless each argument is the key,
tree or count that its name says (`guards`). Further reasons are stated where they hold.
Updates and means are trees of the model's trainable leaves; totals are such trees, of
arrays or `pairs.Pair`s; bounds, norms and sensitivities are scalars, in units of an
update. Functions "on the host" take numbers, not tracers. Rounds and steps start at 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array
from jaxtyping import Bool, Float, Int, PyTree

from ppml_lab import shown

Key = Array
"""A typed jax key (`jax.random.key`)."""
TaskInit = Callable[[Key], PyTree]
TaskLoss = Callable[[Key, PyTree, PyTree], Float[Array, " n"]]

RELATIONS = ("add_or_remove_one", "replace_one", "zero_out")
"""Neighbouring data sets: one member added or removed, replaced, or its place empty."""


class Clients(NamedTuple):
    """A federated data set on device, without padding."""

    examples: PyTree[Array]
    """Leaves `[total, ...]`, rows grouped by client; or see `data.storage`."""
    offsets: Int[Array, " clients_plus_1"]
    """Client `i` owns `examples[offsets[i]:offsets[i + 1]]`."""
    held_out: Int[Array, " clients"] | None = None
    """Number of each client's last rows, never trained: they judge its own model."""

    def __repr__(self) -> str:
        return shown.clients(*self)


class ClientView(NamedTuple):
    """One client in a compiled round: all clients' examples and where its own lie."""

    examples: PyTree[Array]
    """Leaves `[total, ...]`, those of `Clients`."""
    start: Int[Array, ""]
    """First row that this client owns."""
    size: Int[Array, ""]
    """Number of rows that this client trains on."""
    client: Int[Array, ""]
    """The client's index among all clients."""


class Cohort(NamedTuple):
    """The participants of one round, in arrays of a fixed shape."""

    indices: Int[Array, " cohort"]
    """Clients, or examples where examples are sampled."""
    weights: Float[Array, " cohort"]
    """1 for a participant, 0 for padding."""


class Cost(NamedTuple):
    """Messages that one client, or one computing party, exchanges in one round."""

    uplink_bytes: int
    """Bytes sent by a client that takes part to the end."""
    downlink_bytes: int
    """Bytes received."""
    rounds: int = 1
    """Rounds of messages that wait for each other; 1 for a message and its answer."""
    exchanges: int = 0
    """The part of `rounds` between servers, or parties, who wait for no answer."""


class PrivacyEvent(NamedTuple):
    """The event, relation and unit from which an accountant computes epsilon."""

    event: Any
    """A `DpEvent`; its noise multipliers are over the L2 change between neighbours."""
    neighboring_relation: str
    """One of `RELATIONS`."""
    privacy_unit: str | None
    """The protected unit, "client" or "example"; None if nothing is promised."""
    population: int | None = None
    """Number of units, if known; accounting warns of a delta above 1 / population."""
    beside: tuple[PrivacyEvent, ...] = ()
    """The same run's events for other privacy units."""


class Task(NamedTuple):
    """A learning problem; `models.classification` makes one of any `(init, apply)`."""

    init: TaskInit
    """`(key)`: fresh model parameters, of any shapes."""
    loss: TaskLoss
    """`(key, params, examples)`: the loss of each example, for callers to mask, weigh
    and clip; `key` is for dropout and the like. Raises for unreadable rows."""
    evaluate: Callable[[PyTree, PyTree], dict[str, Float[Array, " n"]]]
    """`(params, examples)`: metrics of each example, to average; raises as `loss`."""
    roles: Callable[[PyTree], PyTree] | None = None
    """`(params)`: leaves' roles, of `federated.roles`; None if all are "trainable"."""
    observe: Callable[[PyTree, PyTree], PyTree] | None = None
    """`(params, examples)`: the kept leaves that a batch sets; None for all others."""
    weigh: Callable[[PyTree], Float[Array, " n"]] | None = None
    """`(examples)`: each one's weight in means of metrics, from 0; None if equal."""


class ClientTrainer(NamedTuple):
    """McMahan's ClientUpdate, cut into steps so that lanes of clients never idle."""

    num_steps: Callable[[Int[Array, ""]], Int[Array, ""]]
    """`(size)`: steps of a client with `size` examples; for none 0, and no change."""
    keep: Callable[[PyTree], PyTree]
    """`(params)`: what a client keeps for itself before its first round, or `()`."""
    init: Callable[[Key, PyTree, PyTree, Int[Array, ""]], PyTree]
    """`(key, sent, kept, round_number)`: a client's state; it `kept` this last time."""
    step: Callable[[Key, PyTree, PyTree, ClientView, Int[Array, ""]], PyTree]
    """`(key, sent, state, client, step_number)`: the state after a local step. All
    steps of a round get the same `key`: fold in `step_number`."""
    finish: Callable[[PyTree, PyTree], tuple[PyTree, PyTree, dict[str, Array]]]
    """`(sent, state)`: the update, what the client keeps to its next round, scalars."""
    model: Callable[[PyTree, PyTree], PyTree]
    """`(sent, kept)`: the parameters with which the client predicts."""
    event: Callable[[], PrivacyEvent]
    """`()`: what one participation costs the client's own examples."""
    max_client_size: int | None = None
    """The most examples that a client may have; None for any number."""
    contributions: Any = None
    """The `federated.Contributions` that updates sum; None: updates are their own."""
    still_leaves: Callable[[], tuple[str, ...]] = tuple
    """`()`: leaves that stay where its optimizer moves others; noise moves them too."""
    num_sent: int | None = None
    """The most coordinates of an update that are not zero; None for any number."""


class Server(NamedTuple):
    """The server's side: from the mean of its clients' updates to the next model."""

    init: Callable[[PyTree], PyTree]
    """`(params)`: the server's memory before round 0, for the trainable leaves."""
    send: Callable[[PyTree, PyTree], PyTree]
    """`(params, memory)`: what every participant receives, with the whole model."""
    step: Callable[[PyTree, PyTree, PyTree, Any], tuple[PyTree, PyTree]]
    """`(params, memory, mean, share)`: the next trainable leaves and memory. The mean
    is over a `share` in (0, 1] of the population: `share * mean` is over all of it."""
    weighting: str | None
    """The only weighting under which `step` is right; None if any is."""


class Participation(NamedTuple):
    """A pattern: how often, and how far apart, a member takes part in a run."""

    unit: str
    """The pattern's unit: "member" where every member has a pattern of its own."""
    min_separation: int
    """Rounds from one participation to the next, at least; 1 for adjacent ones."""
    max_participations: int
    """The most rounds that anyone takes part in."""
    sampling_prob: float | None
    """Each member's chance in every round, if independent of others; else None."""


class ClientSampler(NamedTuple):
    """Sampling and its privacy amplification, from one builder."""

    init: Callable[[Key], PyTree]
    """`(key)`: the state carried over rounds, such as an order; `()` for nothing."""
    sample: Callable[[Key, PyTree], tuple[Cohort, PyTree]]
    """`(key, state)`: one round's participants, and the next state."""
    amplify: Callable[[Any], Any]
    """`(event)`: the `DpEvent` of a round of sampled participants; on the host."""
    participation: Callable[[int], Participation]
    """`(num_rounds)`: a run's pattern for noise correlated over rounds; on the host."""
    expected_cohort: Any
    """Expected members: the public denominator of averages, never the realised size."""
    max_cohort: int
    """Length of the cohort's arrays; no round has more participants."""
    population: int
    """Number of clients (or examples) to sample from."""
    neighboring_relation: str
    """The relation under which `amplify` holds."""


class Sums(NamedTuple):
    """The integer sums of messages, for mechanisms whose clients add the noise."""

    dimension: int
    """Coordinates of a message."""
    scale: float
    """Integer steps per unit."""
    bits: int
    """Bits of the modulus."""
    least_reports: int
    """The fewest reports that can make a sum."""


class Grid(NamedTuple):
    """The grid of messages that are integers already."""

    scale: float
    """Integer steps per unit."""
    bits: int
    """Bits of the modulus that messages are meant for."""


class PrivacyMechanism(NamedTuple):
    """A mechanism and its accounting, from one builder: they cannot drift apart."""

    init: Callable[[Key, PyTree], PyTree]
    """`(key, like)`: the state for updates of these shapes; of `key` its seed words."""
    clip: Callable[[Key, PyTree, PyTree], PyTree]
    """`(key, state, update)`: what one client sends: its bounded update and whatever
    else `privatize` wants summed, under local DP with the client's own noise."""
    clip_examples: Callable[[PyTree, Any, Array], PyTree]
    """`(state, gradients, weights)`: the sum of a batch's clipped gradients, from a
    `dp.PerExample`, without those of weight 0; raises unless it protects examples."""
    message_bound: Callable[[PyTree], Any]
    """`(state)`: the largest |coordinate| that a client sends, with noise; or inf."""
    norm_bound: Callable[[PyTree], Any]
    """`(state)`: the largest L2 norm after clipping, before any noise."""
    privatize: Callable[[Key, PyTree, PyTree, Any], tuple[PyTree, PyTree]]
    """`(key, state, total, sensitivity)`: the noisy sum of updates, in plain arrays,
    and the next state; `total` is a **sum** of clipped updates, of this sensitivity."""
    noise_multiplier: Callable[[PyTree], Any] | None
    """`(state)`: noise stddev of the next release over its L2 sensitivity to adding or
    removing one contribution; None unless an independent Gaussian is on the sum."""
    report: Callable[[PyTree], dict[str, Array]]
    """`(state)`: scalars for a round's info, computed from what was released."""
    event: Callable[..., PrivacyEvent]
    """`(sampler, num_releases, sums=None)`: the cost of a run's first `num_releases`,
    of cohorts by `sampler`; on the host. Raises for tracers and uncovered cohorts."""
    privacy_unit: str | None
    """Unit whose contribution is bounded, "client" or "example"; None: no promise."""
    trust: str | None
    """Required trust: "central" (in who sums and adds the noise), "local" (in nobody
    else), "shuffler", "distributed" (in enough of the clients); None: no promise."""
    expected_contributions: Any = None
    """Contributions per round that the mechanism counts on; None if it does not."""
    grid: Grid | None = None
    """The grid of messages that are integers already; None for real messages."""
    check_sampler: Callable[[ClientSampler], None] | None = None
    """`(sampler)`: raises, on the host, unless `event` holds; None if always."""


class SecureAggregator(NamedTuple):
    """Aggregation: `finish(absorb(empty, [encode(x_i)])) ~= sum_i x_i`, or a mean."""

    begin: Callable[[Key, Bool[Array, " cohort"], Bool[Array, " cohort"], Any], PyTree]
    """`(key, invited, reporting, max_abs)`: the session that participants set up before
    a round, by place; only simulations know `reporting`; `max_abs`: `message_bound`."""
    encode: Callable[[Key, PyTree, Int[Array, ""], PyTree], PyTree]
    """`(key, session, place, update)`: a client's message; `key` is its own."""
    empty: Callable[[PyTree], PyTree]
    """`(like_message)`: the total of no messages, for messages of these shapes."""
    absorb: Callable[[PyTree, PyTree, Int[Array, " n"], Bool[Array, " n"]], PyTree]
    """`(total, messages, places, present)`: the total plus the messages, stacked along
    a leading axis, of the clients at `places`; only those `present` count."""
    merge: Callable[[PyTree], PyTree]
    """`(totals)`: the sum of several totals, stacked along a leading axis."""
    finish: Callable[[PyTree, PyTree], tuple[PyTree, Float[Array, ""], Bool[Array, ""]]]
    """`(session, total)`: the sum (or estimate) of all reports, all that a secure sum
    reveals; their number; whether the protocol completed (if not, both are 0)."""
    wrap: Callable[[PyTree, PyTree], PyTree]
    """`(session, value)`: a finished sum, perhaps noisy, reduced as sums wrap."""
    sensitivity: Callable[[PyTree, Any, int], Any]
    """`(session, norm, dimension)`: the largest L2 norm of a client's part in the exact
    sum, for an update of L2 norm at most `norm`."""
    cost: Callable[[int], Cost]
    """`(dimension)`: one client's cost for an update of this many coordinates."""
    can_abort: bool
    """True where too few reports leave a round without a sum."""
    ends_in: str = "sum"
    """"sum", which averaging divides by a public number, or "estimate" of the mean."""
    needs: str = "sum"
    """The input of the result: the messages' "sum", or each "individual" message."""
    change: Callable[[PyTree, Any, int], Any] | None = None
    """`(session, norm, dimension)`: the largest L2 change of a client's part in the
    exact sum when its update changes by `norm`; None where that is not known."""
    shows: str = "individual"
    """The servers' view: only the messages' "sum", or each "individual" message."""
    name: str = "this aggregator"
    """The aggregator's name in errors."""
    check: Callable[[int, Any], None] = lambda num_places, max_abs: None
    """`(num_places, max_abs)`: raises, on the host, unless `begin` can take these."""
    sums: Callable[[int], Sums] | None = None
    """`(dimension)`: the integer sums; None where messages are not integers."""
    abort_share: Callable[[Any, Any], float] | None = None
    """`(num_invited, num_reports)`: the share of these `[rounds]` without a sum; on the
    host. None where it is not known, or always 0."""


class FederatedAlgorithm(NamedTuple):
    """A training algorithm as a state machine; `federated.simulate` runs it."""

    init: Callable[[Key], Any]
    """`(key)`: the server's state before round 0; `state.params` is the model."""
    round: Callable[[Key, Any, Clients], tuple[Any, dict[str, Array]]]
    """`(key, state, clients)`: the next state, and scalars, which are not private."""
    event: Callable[[int], PrivacyEvent]
    """`(num_rounds)`: a whole run's cost; on the host. Raises as a mechanism's does."""
    cost: Callable[[], Cost | None]
    """`()`: the cost of a round; None where nothing is sent."""
    check: Callable[[Clients], None]
    """`(clients)`: raises, on the host, unless `round` can train all of these."""
    expected_cohort: Any = None
    """Clients that a round is expected to begin with; None where that is not known."""
    dropout_prob: Any = None
    """Each client's chance not to report; None where that is not known."""
    trust: str | None = None
    """Whom `event` trusts: a mechanism's `trust`; None where nothing is promised."""


shown.by_builder(Task, ClientTrainer, Server, ClientSampler)
shown.by_builder(PrivacyMechanism, SecureAggregator, FederatedAlgorithm)
