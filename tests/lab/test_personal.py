"""Models that clients keep a part of, and people's gradients, through whole sweeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from ppml_lab import base, data, lab
from ppml_lab.dp import accounting, events
from ppml_lab.lab import parts

SCHEDULE = lab.Schedule(num_rounds=4, eval_every=2)
SETUP = parts.Federated(
    partition=parts.LabelLimited(10, 2),
    model=parts.Mlp((8,)),
    trainer=parts.FedAvg(parts.Sgd(0.3), batch_size=20),
    sampler=parts.Everyone(),
    client_metrics=True,
    held_out=0.25,
    schedule=SCHEDULE,
    layout=lab.Layout(num_lanes=1, num_devices=1),
)
PERSONAL = replace(SETUP, kept=("Dense_1",), mechanism=parts.Gaussian(10.0))
SPREAD = {
    f"client_{metric}{part}"
    for metric in ("accuracy", "loss")
    for part in ("", "_weighted", "_std", "_worst_decile")
}
SHARED, HEAD = 64 * 8 + 8, 8 * 10 + 10


def built(setup: Any) -> base.FederatedAlgorithm:
    return setup.algorithm(lab.facts_of(setup))


def bytes_sent(setup: Any) -> int:
    cost = built(setup).cost()
    assert cost is not None
    return cost.uplink_bytes


def untimed(outcomes: list[lab.Outcome]) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in one.last.items() if not k.endswith("seconds")}
        for one in outcomes
    ]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A personal head, without noise and with: points and outcomes."""
    sweep = lab.axis("mechanism.noise_multiplier", [0.0, 0.3])
    points = lab.points(sweep, PERSONAL, delta=1e-2)
    return points, lab.run_sweep(points, tmp_path_factory.mktemp("personal"))


def test_a_personal_head_is_judged_by_rows_of_its_own_client(swept: Any) -> None:
    points, outcomes = swept
    head, private = (outcome.last for outcome in outcomes)
    assert head.keys() & private.keys() >= SPREAD
    # Nobody's model fits the test set.
    assert not {"accuracy", "loss"} & head.keys()
    assert head["client_accuracy"] > 0.6
    assert private["client_loss"] != head["client_loss"]
    assert 0 < private["client_accuracy"] < 1
    # Nor does anybody's predict.
    with pytest.raises(ValueError, match=r"clients keep .* has its own model"):
        points[0].setup.predict({}, {})
    # Bytes without it.
    assert bytes_sent(points[0].setup) == 4 * SHARED
    assert bytes_sent(SETUP) == 4 * (SHARED + HEAD)


@pytest.mark.exhaustive
def test_a_head_of_ones_own_soon_knows_its_two_digits(
    swept: Any, tmp_path: Path
) -> None:
    (head, _), points = (one.last for one in swept[1]), lab.points(lab.seeds(1), SETUP)
    one = lab.run_sweep(points, tmp_path)[0].last
    assert one.keys() >= SPREAD | {"accuracy", "loss"}
    assert head["client_accuracy"] > one["client_accuracy"] + 0.2
    assert head["client_accuracy_worst_decile"] > one["client_accuracy_worst_decile"]


def test_a_run_that_was_stopped_goes_on_with_what_clients_kept(
    swept: Any, tmp_path: Path
) -> None:
    points, outcomes = swept
    left = [SCHEDULE.eval_every]

    def stop(done: int, text: str) -> None:
        left[0] -= done
        if left[0] < 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab.run_sweep(points[1:], tmp_path, checkpoint_seconds=0, report=stop)
    assert [*tmp_path.glob("checkpoints/*/2")]
    again = lab.run_sweep(points[1:], tmp_path)
    assert untimed(again) == untimed(outcomes[1:])


def test_what_is_held_out_is_in_no_key_and_no_training() -> None:
    facts, all_rows = lab.facts_of(SETUP), lab.facts_of(replace(SETUP, held_out=0.0))
    assert facts.num_held_out + facts.num_examples == all_rows.num_examples == 1437
    assert abs(facts.num_held_out / 1437 - 0.25) < 0.01
    assert facts.max_client_size < all_rows.max_client_size
    assert facts.digests != all_rows.digests
    assert facts.judged_by != all_rows.judged_by
    clients = lab.load_data(SETUP).clients
    assert clients.held_out is not None
    assert int(clients.held_out.sum()) == facts.num_held_out
    sizes = data.client_sizes(clients)
    np.testing.assert_array_equal(clients.held_out, np.rint(sizes * 0.25))


@pytest.mark.exhaustive  # rounds by hand are in federated/test_kept.py
def test_a_batch_norm_of_ones_own_goes_through_a_sweep(tmp_path: Path) -> None:
    """FedBN, and shared scales with statistics of one's own."""
    setup: Any = replace(SETUP, model=parts.BatchNormMlp((8,)))
    kept = lab.axis("kept", {"SiloBN": (), "FedBN": ("BatchNorm_*",)})
    points = lab.points(kept, setup)
    found = lab.run_sweep(points, tmp_path)
    sent = [bytes_sent(point.setup) for point in points]
    assert sent == [4 * (SHARED + HEAD + 16), 4 * (SHARED + HEAD)]
    for outcome in found:
        assert 0 < outcome.last["client_loss"] < 5


@lab.part
class Dealt:
    """Clients that are dealt, and hold rows out, already."""

    num_classes = 2
    held: int = 1

    def load(self) -> tuple[Any, Any, Any]:
        x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
        rows = {"x": x, "y": (x[:, 0] > 0).astype(np.int32)}
        mask = np.arange(12) % 4 >= 4 - self.held
        return data.federate(rows, np.arange(12) // 4, held_out=mask), None, rows


def test_clients_may_bring_rows_that_they_hold_out() -> None:
    setup: Any = replace(PERSONAL, data=Dealt(), held_out=0.0)
    facts = lab.facts_of(setup)
    assert (facts.num_held_out, facts.num_examples, facts.max_client_size) == (3, 9, 3)
    assert facts.people == data.People(9, 3, 3, 3, 1)
    built(setup)
    none = replace(setup, data=Dealt(0))
    assert lab.facts_of(none).num_held_out == 0
    with pytest.raises(
        ValueError, match=r"on its own held-out rows; set held_out, such as 0\.2"
    ):
        built(none)
    on_shares = parts.OnShares(data=Dealt())
    with pytest.raises(ValueError, match="OnShares trains on all rows, but clients"):
        built(on_shares).check(lab.load_data(on_shares).clients)
    with pytest.raises(
        ValueError, match=r"held_out 0\.2 cannot .* of Dealt, whose clients are"
    ):
        lab.facts_of(replace(setup, held_out=0.2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"held_out": 0.0}, r"clients keep \['params'\].* set held_out, such as 0\.2"),
        ({"kept": ("Dens_1",)}, r"'Dens_1'; did you mean 'Dense_1'\?"),
        ({"held_out": 1.0}, r"held_out must be in \[0, 1\), got 1\.0"),
        (
            {"schedule": replace(SCHEDULE, validation=0.1)},
            r"validation 0\.1 holds out rows of no client",
        ),
        ({"trainer": parts.LocalDpSgd()}, "local_dp_sgd adds noise to all"),
        ({"metrics": (parts.Auroc(),)}, "metrics need one model for all test rows"),
        ({"trainer": parts.ExampleGradients()}, "example_gradients takes one step"),
    ],
)
def test_personal_setups_that_make_no_sense(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        built(replace(PERSONAL, **fields))


def test_a_personal_model_has_no_best_and_every_error_says_so(tmp_path: Path) -> None:
    """Whoever reads the first is not sent to the next."""
    says = r"use keep='last'.* without stop_at"
    points = lab.points(lab.seeds(1), PERSONAL, delta=1e-2)
    with pytest.raises(ValueError, match=says):
        lab.run_sweep(points, tmp_path, keep="best")
    choosing: tuple[dict[str, Any], ...] = ({"keep": "best"}, {"stop_at": 0.5}, {})
    for fields in choosing:
        if fields:
            with pytest.raises(ValueError, match=says):
                replace(SCHEDULE, **fields)
        chosen = replace(SCHEDULE, validation=0.1, **fields)
        with pytest.raises(ValueError, match=says):
            lab.points(lab.seeds(1), replace(PERSONAL, schedule=chosen), delta=1e-2)
    # What they advise goes.
    (last,) = lab.run_sweep(points, tmp_path, keep="last")
    assert last.kept is not None


def test_nothing_is_chosen_by_rows_that_are_reported(tmp_path: Path) -> None:
    chosen = replace(SCHEDULE, validation=0.1, keep="best", metric="client_accuracy")
    points = lab.points(lab.seeds(1), replace(SETUP, schedule=chosen))
    with pytest.raises(
        ValueError, match="'client_accuracy' is computed on clients' own rows"
    ):
        lab.run_sweep(points, tmp_path)


# People's gradients.


@lab.part
class Visits:
    """Made patients of three hospitals, some of whom come twice or three times."""

    num_classes = 2
    shares: bool = False
    """Whether a patient is in two hospitals."""
    kind: str = "int32"
    """Of the patients' numbers."""

    def load(self) -> tuple[Any, Any, Any]:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(120, 4)).astype(np.float32)
        rows = {
            "x": x,
            "y": (x[:, 0] + 0.3 * rng.normal(size=120) > 0).astype(np.int32),
            "person": rng.permutation(np.concatenate([np.arange(60), np.arange(60)])),
        }
        hospitals = rows["person"] % 3
        rows["person"] = rows["person"].astype(self.kind)
        if self.shares:
            hospitals = np.where(np.arange(120) == 0, (hospitals + 1) % 3, hospitals)
        test = {name: leaf[:40] for name, leaf in rows.items()}
        return rows, hospitals, test


ACROSS = parts.Federated(
    data=Visits(),
    partition=parts.Natural(),
    trainer=parts.ExampleGradients(20.0),
    server=parts.Sgd(0.5),
    sampler=parts.Everyone(),
    mechanism=parts.Gaussian(1.0),
    secure_sum=parts.AdditiveSharing(),
    schedule=SCHEDULE,
    layout=SETUP.layout,
)


@pytest.mark.exhaustive  # of rounds: federated/test_example_gradients
def test_hospitals_learn_in_a_sweep(tmp_path: Path) -> None:
    assert lab.facts_of(ACROSS).people == data.People(60, 3, 20, 40, 2)
    noises = lab.axis("mechanism.noise_multiplier", [0.0, 1.5])
    points = lab.points(noises, ACROSS, delta=1e-2)
    quiet, noisy = (one.last for one in lab.run_sweep(points, tmp_path))
    assert quiet["accuracy"] > 0.8
    assert 0 < noisy["accuracy"] <= 1
    assert quiet["params_digest"] != noisy["params_digest"]
    # Of as many rows as there are people, in one place.
    pooled = events.compose(events.poisson(1 / 3, events.gaussian(1.5)), 4)
    stated = built(points[1].setup).event(4)
    assert (stated.privacy_unit, stated.population) == ("example", 60)
    assert accounting.epsilon(stated, 1e-2) == pytest.approx(
        accounting.epsilon(stated._replace(event=pooled), 1e-2), rel=1e-6
    )


@pytest.mark.exhaustive
def test_hospitals_buy_what_one_place_would() -> None:
    noisy = lab.calibrated(ACROSS, 2.0, 1e-2)
    stated = lab.statement(noisy, 1e-2)
    assert 1.98 < stated["epsilon_public"] <= 2.0
    assert stated["epsilon_server"] == float("inf")
    assert stated["privacy_unit"] == "example"
    assert stated["noise_multiplier"] == noisy.mechanism.noise_multiplier


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": Visits(True)}, r"person \d+ has rows in clients \d and \d"),
        ({"data": Visits(kind="float32")}, 'leaf "person", let it hold one integer'),
        ({"sampler": parts.Poisson(2)}, "every client has to take part"),
        ({"trainer": parts.ExampleGradients(61.0)}, "at most the number of people, 60"),
        ({"trainer": parts.ExampleGradients(0.0)}, "expected_people 0 must be above 0"),
        ({"mechanism": parts.LocalGaussian(1, 1)}, "LocalGaussian adds a client's own"),
        ({"rule": parts.Mean("examples")}, "use weighting='uniform'"),
    ],
)
def test_people_s_setups_that_make_no_sense(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        built(replace(ACROSS, **fields))


def test_adaptive_clipping_counts_people() -> None:
    adaptive = replace(
        ACROSS, mechanism=parts.AdaptiveGaussian(1.0, 0.2), dropout_prob=0.25
    )
    algorithm = built(adaptive)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    assert algorithm.event(2).privacy_unit == "example"
    assert state.mechanism_state.shape == ()
