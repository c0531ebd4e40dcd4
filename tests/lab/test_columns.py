"""What every table of a sweep says of its rows."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import base, dp, federated, lab, models
from ppml_lab.data import cifar
from ppml_lab.lab import command, parts
from ppml_lab.lab.columns import completed
from ppml_lab.lab.disk import records
from ppml_lab.smpc import cost, graphs, network, transcript

DIMENSION = 65 * 10
"""Of logistic regression on Digits."""
PLAIN = parts.Federated(
    partition=parts.Iid(20),
    sampler=parts.Everyone(),
    schedule=lab.Schedule(num_rounds=3),
)
DP = replace(PLAIN, mechanism=parts.Gaussian(1.0, 1.0), dropout_prob=0.25)
LABELS = {"method": "x", "seed": 7}


def finished(
    folder: Path, setup: Any, labels: dict[str, Any] = LABELS, **last: Any
) -> lab.Result:
    """A run as a sweep leaves it, of two rounds in 6 seconds."""
    records.write_json(
        folder / "provenance.json",
        {"git_commit": "c0ffee", "git_dirty": True, "metrics": ["loss", "within"]},
    )
    records.append_lines(folder / "rounds.jsonl", [{"round": 1}, {"round": 2}])
    last = {"round": 2, "loss": 1.0, "seconds": 6.0} | last
    guarantee = lab.statement(setup, 1e-4) | {"key": "k"}
    point = lab.Point(setup, labels.get("seed", 0), labels, 1e-4)
    return lab.Result(point, guarantee, lab.Outcome(last, folder))


def said(folder: Path, setup: Any, **last: Any) -> dict[str, Any]:
    return lab.columns(finished(folder, setup, **last))


def test_a_federated_run_says_all(tmp_path: Path) -> None:
    found = said(tmp_path, DP, accuracy=0.5)
    bits = 8 * 4 * DIMENSION
    expected = {
        "dataset": "Digits",
        "model": "Logistic",
        "pattern": "federated",
        "privacy_unit": "client",
        "neighboring_relation": "add_or_remove_one",
        "trust": "central",
        "epsilon_public": lab.statement(DP, 1e-4)["epsilon_pld"],
        "epsilon_server": float("inf"),
        "adversary": "public",
        "delta": 1e-4,
        "accountant": "pld",
        "metric": "accuracy",
        "seed": 7,
        "num_clients": 20,
        "cohort": 20.0,
        "dropout_prob": 0.25,
        "num_rounds": 3,
        "protocol_rounds": 1,
        "uplink_bytes": 4 * DIMENSION,
        "downlink_bytes": 4 * DIMENSION,
        "lan_seconds": pytest.approx(0.02e-3 + bits / 40e9),
        "wan_seconds": pytest.approx(40e-3 + bits / 352e6),
        "compute_seconds": 3.0,
        "measured_or_projected": "measured",
        "commit": "c0ffee-dirty",
        "noise_multiplier": 1.0,
        "key": "k",
    }
    assert {name: found[name] for name in expected} == expected
    # One who owns other rows, or in another order, has the same data.
    other = replace(DP, partition=parts.Iid(20, seed=1))
    assert said(tmp_path, other)["data_digest"] == found["data_digest"]
    held = replace(DP, schedule=lab.Schedule(num_rounds=3, validation=0.1))
    assert said(tmp_path, held)["data_digest"] != found["data_digest"]


SUMS = {
    "additive": (
        parts.AdditiveSharing(),
        cost.additive_sharing(3, DIMENSION, 32),
        (1, 1),
    ),
    "masks": (
        parts.PairwiseMasking(parts.Complete(15)),
        cost.bonawitz(graphs.complete(20, 15), DIMENSION, 32),
        (4, 0),
    ),
    "codes": (
        parts.LightSecAgg(surviving=15),
        cost.light_secagg(20, 15, 2, DIMENSION, 31),
        (3, 0),
    ),
}


@pytest.mark.parametrize("name", SUMS)
def test_a_secure_sum_costs_what_its_messages_do(tmp_path: Path, name: str) -> None:
    part, messages, (trips, exchanges) = SUMS[name]
    setup = replace(PLAIN, secure_sum=part, sampler=parts.FixedSize(20))
    setup = replace(setup, mechanism=parts.Gaussian(1.0, 0.0))
    found = said(tmp_path, setup)
    assert found["protocol_rounds"] == trips + exchanges == cost.num_rounds(messages)
    assert cost.num_exchanges(messages) == exchanges
    sent, received = (
        way(messages, "client") for way in (cost.sent_bits, cost.received_bits)
    )
    assert found["uplink_bytes"] == -(-sent // 8)
    assert found["downlink_bytes"] == -(-received // 8) + 4 * DIMENSION
    busiest = 8 * max(found["uplink_bytes"], found["downlink_bytes"])
    waits = (trips + exchanges / 2) * 40e-3
    assert found["wan_seconds"] == pytest.approx(waits + busiest / 352e6)


@lab.part
class TwoClasses:
    """Made rows."""

    shift: float = 1.0
    """How far apart."""

    num_classes = 2

    def load(self) -> Any:
        """Four owners."""
        rng = np.random.default_rng(0)
        y = np.arange(50) % 2
        x = (rng.normal(size=(50, 3)) + self.shift * y[:, None]).astype(np.float32)
        train, test = ({"x": x[s], "y": y[s]} for s in (slice(40), slice(40, 50)))
        return train, np.arange(40) % 4, test


def test_computing_on_shares_costs_what_its_transcript_says(tmp_path: Path) -> None:
    setup = parts.OnShares(data=TwoClasses(), noise_multiplier=1.0)
    found = said(tmp_path, setup)
    assert (found["pattern"], found["model"]) == ("on shares", "Logistic")
    assert (found["trust"], found["privacy_unit"]) == ("distributed", "example")
    assert (found["num_clients"], found["cohort"]) == (4, None)
    rows = {"x": jnp.zeros((40, 4)), "y": jnp.zeros(40)}

    training = setup.training(lab.facts_of(setup), 2)
    start = (jax.random.key(0), jnp.zeros(4), {"all owners": rows})
    sent = transcript.priced(training.train, *start)
    assert 2 * found["protocol_rounds"] == sent.num_rounds("step") > 20
    for column, way in (("uplink_bytes", "sent"), ("downlink_bytes", "received")):
        bits = [getattr(sent, f"{way}_bits")(party, "step") for party in range(3)]
        assert found[column] == -(-max(bits) // 16)
    expected = sent.seconds(network.WAN, "step") / 2
    assert found["wan_seconds"] == pytest.approx(expected, rel=1e-6)


def test_central_training_sends_nothing(tmp_path: Path) -> None:
    noise = parts.Gaussian(1.0, 1.0)
    found = said(tmp_path, parts.Central(batch=parts.Everyone(), mechanism=noise))
    assert (found["pattern"], found["trust"]) == ("central", "central")
    empty = ("cohort", "dropout_prob", "protocol_rounds", "uplink_bytes")
    empty += ("downlink_bytes", "lan_seconds", "wan_seconds")
    assert {found[name] for name in empty} == {None}


def test_noise_of_the_clients_own_needs_no_other_trust(tmp_path: Path) -> None:
    local = replace(PLAIN, mechanism=parts.LocalGaussian(1.0, 1.0))
    steps = replace(PLAIN, trainer=parts.LocalDpSgd(noise_multiplier=1.0))
    assert [said(tmp_path, s)["trust"] for s in (local, steps)] == ["local"] * 2
    promise = ("privacy_unit", "neighboring_relation", "trust", "delta")
    assert {said(tmp_path, PLAIN)[name] for name in promise} == {None}


@lab.part
class Own:
    """A setup that is none of the stock ones."""

    data: Any = TwoClasses(shift=2.0)
    schedule: lab.Schedule = lab.Schedule(num_rounds=4)
    layout: lab.Layout = lab.Layout()

    def algorithm(self, facts: lab.Facts) -> base.FederatedAlgorithm:
        """Of which little is told."""
        made = federated.averaging(
            models.flax_classification(models.logistic(2), (3,)),
            federated.local_sgd(
                models.flax_classification(models.logistic(2), (3,)),
                parts.Sgd(0.1).build(),
                5,
                num_epochs=1,
            ),
            federated.everyone(facts.num_clients),
            mechanism=dp.gaussian(1.0, 1.0),
        )
        return base.FederatedAlgorithm(
            made.init, made.round, made.event, lambda: None, made.check
        )

    def evaluate(self, state: Any, clients: Any, rows: Any) -> dict[str, Any]:
        """Nothing."""
        return {}


def test_what_is_not_known_of_ones_own_setup_is_empty(tmp_path: Path) -> None:
    found = said(tmp_path, Own(), within=0.5)
    assert found["dataset"] == "TwoClasses(shift=2)"
    assert (found["pattern"], found["num_clients"], found["num_rounds"]) == (
        "Own",
        4,
        4,
    )
    assert (found["privacy_unit"], found["accountant"]) == ("client", "pld")
    empty = ("model", "trust", "cohort", "dropout_prob", "protocol_rounds")
    empty += ("uplink_bytes", "lan_seconds")
    assert {found[name] for name in empty} == {None}
    # Its only metric beside the loss, as its record says.
    assert found["metric"] == "within"


def test_parts_go_by_what_is_particular_to_them(tmp_path: Path) -> None:
    for model, name in (
        (parts.Mlp(), "Mlp"),
        (parts.Mlp((64, 8)), "Mlp(widths=(64, 8))"),
        (parts.Flax(models.two_nn), "Flax(make=ppml_lab.models.modules.two_nn)"),
    ):
        assert said(tmp_path, replace(PLAIN, model=model))["model"] == name
    made = replace(PLAIN, data=parts.Synthetic(9, beta=0.5), partition=parts.Natural())
    found = said(tmp_path, made)
    assert found["dataset"] == "Synthetic(num_clients=9, beta=0.5)"


def test_data_that_are_not_the_original_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {"x": np.zeros((8, 2), np.float32), "y": np.arange(8) % 2}
    monkeypatch.setattr(parts.Cifar10, "load", lambda self: (images, None, images))
    for jpeg, name in ((True, "CIFAR-10 (JPEG q75)"), (False, "CIFAR-10")):
        monkeypatch.setattr(cifar, "reads_jpeg", lambda jpeg=jpeg: jpeg)
        # Another setup, for what is said of one is kept.
        setup = replace(PLAIN, data=parts.Cifar10(), partition=parts.Iid(1 + jpeg))
        assert said(tmp_path, setup)["dataset"] == name


def test_rows_of_one_run_of_several_and_of_all(tmp_path: Path) -> None:
    results = [
        finished(
            tmp_path / f"{method} {seed}",
            replace(PLAIN, partition=parts.Iid(clients)),
            {"method": method, "seed": seed},
            seconds=seconds,
        )
        for method, clients in (("a", 20), ("b", 30))
        for seed, seconds in ((0, 2.0), (1, 6.0))
    ]
    rows = [
        {"method": "b", "seed": 1, "accuracy": 0.1},
        {"accuracy": 0.2, "method": "a", "seeds": 2},
        {"accuracy": 0.3, "cohort": 8, "measured_or_projected": "projected"},
    ]
    told = {"experiment": "mine", "command": "python -m mine"}
    one, mean, every = completed(rows, results, **told)
    assert [*one][:6] == [
        "method",
        "seed",
        "accuracy",
        "experiment",
        "dataset",
        "data_digest",
    ]
    assert (one["num_clients"], one["compute_seconds"]) == (30, 3.0)
    # What `compare` matches by comes first, then the seed.
    assert [*mean][:4] == ["method", "seed", "accuracy", "seeds"]
    assert (mean["seed"], mean["num_clients"], mean["compute_seconds"]) == (
        None,
        20,
        2.0,
    )
    assert (every["num_clients"], every["dataset"]) == (None, "Digits")
    assert (every["cohort"], every["measured_or_projected"]) == (8, "projected")
    assert {row["command"] for row in (one, mean, every)} == {"python -m mine"}


@pytest.mark.parametrize(
    ("main", "args", "expected"),
    [
        (
            {"__spec__": types.SimpleNamespace(name="experiments.mine")},
            ["smoke", "--shard=1/2", "--go-on", "--out", "/tmp/x", "--a.b-c", "x y"],
            "python -m experiments.mine smoke --a.b-c 'x y'",
        ),
        (
            {"__spec__": types.SimpleNamespace(name="mine.__main__")},
            ["paper", "model:mlp", "--shard", "2/2", "--merge", "--num-seeds", "2"],
            "python -m mine paper model:mlp --num-seeds 2",
        ),
        ({"__file__": "my file.py"}, ["smoke"], "python 'my file.py' smoke"),
        ({}, ["-f", "kernel.json"], None),
    ],
)
def test_the_command_is_one_for_a_shell(
    monkeypatch: pytest.MonkeyPatch, main: Any, args: list[str], expected: str | None
) -> None:
    main = types.SimpleNamespace(**{"__spec__": None} | main)
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "argv", ["anything", *args])
    without = {"shard": True, "out": True, "merge": False, "go_on": False}
    assert command.again(without) == expected
