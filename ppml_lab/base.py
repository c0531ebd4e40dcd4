"""The shared types of the lab: how data, learning, privacy and secure sums meet.

Builders take hyperparameters and return these NamedTuples of pure functions. Each field
is documented once, by the Protocol that states its signature; the builders' docstrings
say only what is particular to them.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from jax import Array
from jaxtyping import Bool, Float, Int, PyTree

Key = Array
"""A typed jax key (`jax.random.key`)."""


class Clients(NamedTuple):
    """A federated data set on device, without padding.

    Attributes:
      examples: Leaves `[total, ...]`, grouped by client; or see `data.storage`.
      offsets: Client `i` owns `examples[offsets[i]:offsets[i + 1]]`.
    """

    examples: PyTree[Array]
    offsets: Int[Array, " clients_plus_1"]


class ClientView(NamedTuple):
    """One client in a compiled round: everybody's examples and where its own lie.

    Attributes:
      examples: Leaves `[total_examples, ...]`, those of `Clients`.
      start: First row that this client owns.
      size: Number of rows that it owns.
    """

    examples: PyTree[Array]
    start: Int[Array, ""]
    size: Int[Array, ""]


class Cohort(NamedTuple):
    """Who takes part in one round; a static shape.

    Attributes:
      indices: Clients, or examples where examples are sampled.
      weights: 1 for a participant, 0 for padding.
    """

    indices: Int[Array, " cohort"]
    weights: Float[Array, " cohort"]


class Cost(NamedTuple):
    """Bytes between one participating client and the servers in one round."""

    uplink_bytes: int
    downlink_bytes: int


class PrivacyEvent(NamedTuple):
    """What an accountant needs to state epsilon.

    Attributes:
      event: A `dp_accounting.DpEvent`. Its noise multipliers are relative to the L2
        sensitivity under `neighboring_relation`, so that 1.0 always means "stddev equal
        to what one neighbour can change".
      neighboring_relation: "add_or_remove_one" or "replace_one".
      privacy_unit: "client" or "example", or None if nothing is promised.
      population: How many of them there are, where that is known: a delta above one
        over it promises next to nothing, and accounting warns.
    """

    event: Any
    neighboring_relation: str
    privacy_unit: str | None
    population: int | None = None


class TaskInit(Protocol):
    def __call__(self, key: Key) -> PyTree[Array]:
        """Fresh model parameters."""


class TaskLoss(Protocol):
    def __call__(
        self, key: Key, params: PyTree, examples: PyTree
    ) -> Float[Array, " n"]:
        """The loss of each example, so that callers can mask, weigh and clip; `key` is
        for dropout and the like.
        """


class TaskEvaluate(Protocol):
    def __call__(
        self, params: PyTree, examples: PyTree
    ) -> dict[str, Float[Array, " n"]]:
        """Metrics of each example; their means are reported."""


class Task(NamedTuple):
    """What is learnt; `models.classification` makes one of any `(init, apply)` pair."""

    init: TaskInit
    loss: TaskLoss
    evaluate: TaskEvaluate


class TrainerNumSteps(Protocol):
    def __call__(self, size: Int[Array, ""]) -> Int[Array, ""]:
        """How many steps a client with `size` examples takes; at least 1."""


class TrainerKeep(Protocol):
    def __call__(self, params: PyTree) -> PyTree:
        """What a client keeps for itself before its first round; `()` for nothing."""


class TrainerInit(Protocol):
    def __call__(self, key: Key, sent: PyTree, kept: PyTree) -> PyTree:
        """State of a client that was `sent` this; `kept` is from its last round."""


class TrainerStep(Protocol):
    def __call__(
        self,
        key: Key,
        sent: PyTree,
        state: PyTree,
        client: ClientView,
        step_number: Int[Array, ""],
    ) -> PyTree:
        """A local step. `key` is the client's for the round: fold in `step_number`."""


class TrainerFinish(Protocol):
    def __call__(
        self, sent: PyTree, state: PyTree
    ) -> tuple[PyTree, PyTree, dict[str, Array]]:
        """The update for the server, what the client keeps until its next round, and
        scalars about the training.
        """


class TrainerEvent(Protocol):
    def __call__(self) -> PrivacyEvent:
        """What one participation costs the client's own examples."""


class ClientTrainer(NamedTuple):
    """McMahan's ClientUpdate cut into steps, so that lanes of clients of any size never
    idle. An algorithm is a trainer and the `Server` that understands its updates.
    """

    num_steps: TrainerNumSteps
    keep: TrainerKeep
    init: TrainerInit
    step: TrainerStep
    finish: TrainerFinish
    event: TrainerEvent


class ServerInit(Protocol):
    def __call__(self, params: PyTree) -> PyTree:
        """What the server remembers beside the model, before round 0."""


class ServerSend(Protocol):
    def __call__(self, params: PyTree, memory: PyTree) -> PyTree:
        """What every participant receives."""


class ServerStep(Protocol):
    def __call__(
        self, params: PyTree, memory: PyTree, mean: PyTree, share: Any
    ) -> tuple[PyTree, PyTree]:
        """The next model and memory from the mean of the clients' updates.

        `share` is the part of the population that the mean counts: mean times share is
        the sum of the updates over the number of all clients.
        """


class Server(NamedTuple):
    """What a server makes of the mean of its clients' updates.

    Attributes:
      weighting: The only weighting under which `step` is right; None if any is.
    """

    init: ServerInit
    send: ServerSend
    step: ServerStep
    weighting: str | None


class SamplerSample(Protocol):
    def __call__(self, key: Key) -> Cohort:
        """Draws one round's participants."""


class SamplerAmplify(Protocol):
    def __call__(self, event: Any) -> Any:
        """The `DpEvent` of a round whose participants were drawn by this sampler."""


class ClientSampler(NamedTuple):
    """Sampling and its privacy amplification, from one builder.

    Attributes:
      sample: Draws a cohort.
      amplify: What sampling does to a round's event.
      expected_cohort: The public denominator of averages, never the realised size.
      max_cohort: Length of the cohort's arrays; no round has more participants.
      population: How many clients (or examples) there are to sample from.
      neighboring_relation: The relation under which `amplify` holds.
    """

    sample: SamplerSample
    amplify: SamplerAmplify
    expected_cohort: Any
    max_cohort: int
    population: int
    neighboring_relation: str


class MechanismInit(Protocol):
    def __call__(self) -> PyTree:
        """State carried over rounds (for example an adaptive clip)."""


class MechanismClip(Protocol):
    def __call__(self, key: Key, state: PyTree, update: PyTree) -> PyTree:
        """What leaves one client: its update, bounded, and whatever else `privatize`
        wants summed; under local DP also with the client's own noise.
        """


class MechanismClipExamples(Protocol):
    def __call__(self, state: PyTree, gradients: Any, weights: Array) -> PyTree:
        """The sum of a batch's `clip`ped gradients, from a `dp.PerExample`, without
        those of weight 0.
        """


class MechanismNormBound(Protocol):
    def __call__(self, state: PyTree) -> Any:
        """The L2 norm that what is clipped has at most, before any noise."""


class MechanismPrivatize(Protocol):
    def __call__(
        self, key: Key, state: PyTree, total: PyTree, sensitivity: Any
    ) -> tuple[PyTree, PyTree]:
        """Adds noise to a **sum** of what was clipped, with the given L2 sensitivity;
        returns the noisy sum of updates and the next state.
        """


class MechanismNoise(Protocol):
    def __call__(self, state: PyTree) -> Any:
        """The next release's standard deviation of Gaussian noise over the sensitivity
        when one contribution is added or removed.
        """


class MechanismReport(Protocol):
    def __call__(self, state: PyTree) -> dict[str, Array]:
        """Scalars of the state for a round's info, made of what was released."""


class MechanismEvent(Protocol):
    def __call__(self, sampler: ClientSampler, num_releases: int) -> PrivacyEvent:
        """The cost of a run's first `num_releases` releases, each of participants whom
        `sampler` draws. Host side; needs concrete hyperparameters.
        """


class PrivacyMechanism(NamedTuple):
    """A mechanism and its accounting, from one builder so that they cannot drift apart.

    Attributes:
      noise_multiplier: None where a release is not one Gaussian on the sum.
      privacy_unit: Whose contribution is bounded, "client" or "example"; None for
        the mechanism that promises nothing (`dp.no_privacy`).
    """

    init: MechanismInit
    clip: MechanismClip
    clip_examples: MechanismClipExamples
    norm_bound: MechanismNormBound
    privatize: MechanismPrivatize
    noise_multiplier: MechanismNoise | None
    report: MechanismReport
    event: MechanismEvent
    privacy_unit: str | None


class AggregatorBegin(Protocol):
    def __call__(
        self,
        key: Key,
        invited: Bool[Array, " cohort"],
        reporting: Bool[Array, " cohort"],
    ) -> PyTree:
        """What a round's participants, by place in the cohort, agree on beforehand. Of
        the `invited`, the simulation knows who will be `reporting`.
        """


class AggregatorEncode(Protocol):
    def __call__(
        self, key: Key, session: PyTree, place: Int[Array, ""], update: PyTree
    ) -> PyTree:
        """The message of the client at `place` in the cohort; `key` is its own."""


class AggregatorAggregate(Protocol):
    def __call__(self, total: PyTree, messages: PyTree) -> PyTree:
        """Folds messages, stacked along a leading axis, into a running total; zeros are
        the empty total.
        """


class AggregatorDecode(Protocol):
    def __call__(
        self, session: PyTree, total: PyTree
    ) -> tuple[PyTree, Bool[Array, ""]]:
        """The sum of all reported updates, which is all that the servers learn
        together, and whether the protocol completed; if not, the sum is zero.
        """


class AggregatorWrap(Protocol):
    def __call__(self, total: PyTree) -> PyTree:
        """A decoded sum, perhaps with noise, modulo what sums may wrap around at; the
        sum itself if they may not.
        """


class AggregatorSensitivity(Protocol):
    def __call__(self, clip_norm: Any, dimension: int) -> Any:
        """The L2 norm of a client's part in the exact sum when its update has norm
        `clip_norm` at most.
        """


class AggregatorCost(Protocol):
    def __call__(self, dimension: int) -> Cost:
        """Bytes of one client for an update with `dimension` coordinates."""


class SecureAggregator(NamedTuple):
    """A sum of updates: `decode(aggregate(0, [encode(x_i)])) ~= sum_i x_i`; aggregate
    is associative. `can_abort`: whether too few reports leave a round without a sum.
    """

    begin: AggregatorBegin
    encode: AggregatorEncode
    aggregate: AggregatorAggregate
    decode: AggregatorDecode
    wrap: AggregatorWrap
    sensitivity: AggregatorSensitivity
    cost: AggregatorCost
    can_abort: bool


class AlgorithmInit(Protocol):
    def __call__(self, key: Key) -> Any:
        """The server's state before round 0; `state.params` is the model."""


class AlgorithmRound(Protocol):
    def __call__(
        self, key: Key, state: Any, clients: Clients
    ) -> tuple[Any, dict[str, Array]]:
        """The next state, and scalars for the researcher, which are not private."""


class AlgorithmEvent(Protocol):
    def __call__(self, num_rounds: int) -> PrivacyEvent:
        """The cost of a whole run."""


class AlgorithmCost(Protocol):
    def __call__(self) -> Cost | None:
        """Bytes per participating client and round; None where clients take no part."""


class FederatedAlgorithm(NamedTuple):
    """A training algorithm as a state machine; `federated.simulate` runs it."""

    init: AlgorithmInit
    round: AlgorithmRound
    event: AlgorithmEvent
    cost: AlgorithmCost
