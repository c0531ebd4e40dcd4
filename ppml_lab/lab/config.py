"""What a run is: a frozen `Config`, which is compiled, and traced `Hyperparams`.

What changes the compiled program (shapes, algorithm) is in the first; what only changes
numbers is in the second, so that a sweep over it compiles once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple


@dataclass(frozen=True)
class DataConfig:
    """Which data, and how they are dealt to clients."""

    dataset: str = "digits"
    """Name of a data set: one of `data.names()`, such as digits or mnist."""
    partition: str = "iid"
    """iid, dirichlet, shards, label_limited, quantity_skew, or natural (the data set's
    own users)."""
    num_clients: int = 100
    """Number of clients; the natural partition has its own, but for synthetic data."""
    dirichlet_alpha: float = 0.5
    """Concentration of the dirichlet partition; small is skewed."""
    shards_per_client: int = 2
    """Shards of sorted labels that each client gets in the shards partition."""
    labels_per_client: int = 2
    """Classes that each client has in the label_limited partition."""
    size_sigma: float = 1.0
    """Log-standard-deviation of client sizes in the quantity_skew partition."""
    synthetic_beta: float = 1.0
    """Variance of the clients' input centres in the synthetic data."""
    data_seed: int = 0
    """Seed of synthetic data and of the partition; runs' seeds do not change them."""


@dataclass(frozen=True)
class Config:
    """Everything about a run that is fixed when it is compiled."""

    data: DataConfig = field(default_factory=DataConfig)
    """Which data, and how they are dealt to clients."""
    model: str = "logistic"
    """Name of a model: logistic, 2nn, cnn, lenet, tutorial_cnn or tanh_cnn."""
    training: Literal["federated", "central"] = "federated"
    """Federated averaging, or SGD on everybody's pooled examples."""
    algorithm: str = "fedavg"
    """What clients and server do: fedavg, fedprox or scaffold."""
    sampler: str = "poisson"
    """Who takes part: everyone, fixed_size or poisson."""
    cohort: float = 10.0
    """Expected clients per round, of which `cohort_share` may take fewer; with central
    training, expected examples per step."""
    num_rounds: int = 50
    """Rounds of training."""
    eval_every: int = 10
    """Rounds between evaluations."""
    evals_per_chunk: int = 1
    """Evaluations between two visits to the host; a killed run loses at most so many.
    """
    evaluate_clients: bool = False
    """Whether evaluations also go through every client's own (training) examples."""
    stop_at_accuracy: float | None = None
    """Ends the run after a chunk in which the test accuracy reached this."""
    batch_size: int = 10
    """Examples per local step."""
    local_epochs: int = 1
    """Passes over its data that a client makes per round."""
    steps_per_round: int = 1
    """Steps per round in central training, and per client with privacy "local_dp_sgd".
    """
    client_optimizer: str = "sgd"
    """Optimizer of clients, and of central training: sgd, momentum or adam."""
    server_optimizer: str = "sgd"
    """Optimizer of the server: sgd (FedAvg), momentum, adam, yogi or adagrad."""
    weighting: Literal["uniform", "examples"] = "uniform"
    """Whether clients count the same or by their number of examples."""

    privacy: str = "none"
    """Mechanism: none, central, local, example (central training) or local_dp_sgd."""
    clipping: str = "flat"
    """How contributions are clipped: flat, per_layer, normalised, or adaptive (flat, to
    the `target_quantile` of their norms)."""
    target_quantile: float = 0.5
    """The share of contributions that adaptive clipping leaves as they are."""
    per_example: str = "auto"
    """How examples' gradients are clipped: ghost, vmap, or auto for the first where it
    knows the model."""
    microbatch_size: int | None = None
    """Examples that are clipped at once; None for the whole batch."""
    secure_sum: Literal[
        "clear", "additive_sharing", "pairwise_masking", "light_secagg"
    ] = "clear"
    """How updates are summed: as they are, as shares of several servers, under masks
    that cancel, or under coded masks."""
    secure_mode: Literal["identity", "ideal", "full"] = "full"
    """Whether a secure sum's messages are made in full; "identity" makes none, and
    "ideal" (masking only) draws them by their law. Sums and stated costs are equal."""
    mask_graph: Literal["complete", "k_regular"] = "complete"
    """Who shares pairwise masks: everybody, or as few neighbours as are safe for
    `corrupt_share` and `dropout_share`."""
    mask_threshold: int | None = None
    """Reports without which a masked sum aborts (not for k_regular graphs, which have a
    threshold of their own); None for more than two thirds of the expected cohort."""
    corrupt_share: float = 0.1
    """Share of a cohort that may tell the server all it sees: what k_regular graphs and
    light_secagg are made for."""
    dropout_share: float = 0.1
    """Share of a cohort whose dropping out a k_regular graph survives."""
    num_parties: int = 3
    """Servers among which updates are shared."""
    sums_may_wrap: bool = False
    """Whether a secure sum may outgrow `modulus_bits` and wrap around, its noise with
    it, so that epsilon holds; otherwise too few bits are an error."""
    max_abs: float = 8.0
    """Bound of a shared coordinate where no central mechanism states one."""
    num_lanes: int | None = None
    """Clients trained at once on a device; None chooses by backend and model."""
    num_devices: int | None = None
    """Devices that a round's clients are dealt to; None takes all. Where there are
    twice as many or more, other points of a sweep run beside."""
    shard_data: bool = False
    """Whether a device holds the examples of its own clients only, trains those and
    draws them; otherwise each holds all and they share the work evenly."""


class Hyperparams(NamedTuple):
    """Traced scalars: changing them does not compile again.

    Attributes:
      learning_rate: The clients', or central training's.
      server_learning_rate: Multiplies the mean update (1 is FedAvg).
      clip_norm: L2 bound of a contribution.
      noise_multiplier: Standard deviation of the noise over the clip norm.
      proximal_mu: Weight of FedProx's proximal term.
      dropout_prob: Chance of a participant to drop out before its upload.
      cohort_share: Part of `Config.cohort` that a round draws; other than 1 only with
        the sampler "fixed_size".
      scale_bits: Fixed point of secure sums: 2^scale_bits steps per unit.
      modulus_bits: Secure sums are modulo 2^modulus_bits, at most 32.
    """

    learning_rate: Any = 0.1
    server_learning_rate: Any = 1.0
    clip_norm: Any = 1.0
    noise_multiplier: Any = 0.0
    proximal_mu: Any = 0.01
    dropout_prob: Any = 0.0
    cohort_share: Any = 1.0
    scale_bits: Any = 16
    modulus_bits: Any = 32
