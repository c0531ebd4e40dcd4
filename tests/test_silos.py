"""Hospitals: splits of people, patterns, costs, intervals, and files of one's own."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments import hospitals
from experiments.silos import audits, office, patterns, splits
from experiments.silos.own_file import Csv
from experiments.silos.sources import Heart, Rows, Workclass
from ppml_lab import lab
from ppml_lab.data import datasets, files
from ppml_lab.dp import accounting
from ppml_lab.lab import parts

ROOT = Path(__file__).resolve().parents[1]
RANGES = ("--data.ranges", "age=0:120", "--data.other-range=-2:2")


@lab.part
class Made:
    """Silos of ten, twenty and sixty people, of one or two visits each."""

    visits: int = 1
    title = "Made"
    is_public = True

    def rows(self) -> Rows:
        rng = np.random.default_rng(0)
        person = np.repeat(np.arange(90), self.visits)
        x = rng.uniform(-1, 1, (len(person), 3)).astype(np.float32)
        y = (x[:, 0] + 0.3 * rng.normal(size=len(x)) > 0).astype(np.int32)
        silo = (person >= 10).astype(int) + (person >= 30)
        return Rows(x, y, silo, ("small", "middle", "large"), person)


def write(path: Path, **change: Any) -> str:
    """Visits of eighty people at two hospitals, two each."""
    rng = np.random.default_rng(0)
    lines = ["age,bmi,hospital,patient,y"]
    for n in range(160):
        age, bmi = rng.uniform(20, 90), rng.normal()
        row = {"age": f"{age:.1f}", "bmi": f"{bmi:.2f}", "hospital": "AB"[n // 80]}
        row |= {"patient": str(n // 2), "y": "yes" if age / 50 + bmi > 1 else "no"}
        row |= {name: told(n) for name, told in change.items() if told(n) is not None}
        lines.append(",".join(row.values()))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def trained(setup: Any) -> Any:
    """The last metrics and parameters of a run."""
    point = lab.points(lab.seeds(1), setup, delta=1e-3)[0]
    loaded, algorithm = lab.load_data(setup), setup.algorithm(lab.facts_of(setup))
    key = jax.random.key(point.seed)
    state = algorithm.init(key)
    step = jax.jit(algorithm.round)
    for number in range(setup.schedule.num_rounds):
        state, _ = step(jax.random.fold_in(key, number), state, loaded.clients)
    return state, setup.evaluate(state, loaded.clients, loaded.test)


def numbers(state: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state.params)])


LEARNING = patterns.Learning(rounds=20, personal_rounds=2, private_rounds=5)


def test_a_split_keeps_people_whole_and_strata_alike() -> None:
    rows = Made(visits=2).rows()
    split = splits.Split(Made(visits=2), 3)
    is_train = split.is_train()
    for person in range(90):
        assert len(set(is_train[rows.person == person])) == 1
    for silo in (0, 1, 2):
        first = rows.silo[::2] == silo
        for label in (0, 1):
            those = first & (rows.y[::2] == label)
            assert is_train[::2][those].sum() == max(1, round(0.66 * those.sum()))
    again = splits.Split(Made(visits=2), 3).is_train()
    other = splits.Split(Made(visits=2), 4).is_train()
    np.testing.assert_array_equal(is_train, again)
    assert (is_train != other).any()


def test_federated_steps_are_the_pooled_ones_and_a_secure_sum_changes_nothing() -> None:
    found = patterns.setups(splits.Split(Made()), LEARNING)
    pooled, said = trained(found[patterns.POOLED].setup)
    for name in (patterns.FEDERATED, patterns.SUMMED):
        state, its = trained(found[name].setup)
        np.testing.assert_allclose(numbers(state), numbers(pooled), atol=2e-4)
        assert float(its["accuracy"]) == float(said["accuracy"])
    assert float(said["accuracy"]) > 0.7


def test_private_patterns_noise_patients_once_and_say_so() -> None:
    found = patterns.setups(splits.Split(Made()), LEARNING)
    for name in (patterns.CENTRAL_DP, patterns.SHARES):
        setup = found[name].setup.with_noise(3.0)
        told = lab.statement(setup, 1e-3)
        assert told["privacy_unit"] == "example"
        assert told["neighboring_relation"] == "add_or_remove_one"
        # Five steps on everybody: one Gaussian of noise 3 over the root of 5.
        wanted = accounting.stated(setup.algorithm(lab.facts_of(setup)).event(5), 1e-3)
        assert told["epsilon_pld"] == pytest.approx(wanted[0], rel=1e-3)
        assert told["epsilon_pld"] == pytest.approx(2.3, abs=0.25)


def test_personal_models_are_judged_by_their_own_silos_test_rows() -> None:
    setup = patterns.setups(splits.Split(Made()), LEARNING)[patterns.PERSONAL].setup
    state, found = trained(setup)
    split = splits.Split(Made())
    rows, is_train = Made().rows(), split.is_train()
    (kernel,) = (leaf for leaf in jax.tree.leaves(state.params) if leaf.ndim == 2)
    (bias,) = (leaf for leaf in jax.tree.leaves(state.kept) if leaf.ndim == 2)
    assert bias.shape == (3, 2)
    assert np.abs(bias[0] - bias[1]).max() > 0
    scores = rows.x[~is_train] @ kernel + bias[rows.silo[~is_train]]
    right = scores.argmax(1) == rows.y[~is_train]
    assert float(found["accuracy"]) == pytest.approx(right.mean())
    # A model without the silos' intercepts is another.
    loaded = lab.load_data(setup)
    assert loaded.clients.held_out is not None
    assert int(np.sum(loaded.clients.held_out)) == int((~is_train).sum())


def test_a_silo_alone_trains_on_nobody_elses_rows() -> None:
    split = splits.Split(Made())
    train, silos, test = splits.OneSilo(Made(), silo=0).load()
    assert set(silos) == {0}
    assert len(train["y"]) == int((Made().rows().silo[split.is_train()] == 0).sum())
    assert set(test["silo"]) == {0, 1, 2}
    state, found = trained(patterns.setups(split, LEARNING)["alone: small"].setup)
    kernel, bias = (
        np.asarray(state.params["params"]["Dense_0"][name])
        for name in ("kernel", "bias")
    )
    right = (test["x"] @ kernel + bias).argmax(1) == test["y"]
    for place in range(3):
        its = float(found[patterns.at_silo(place)])
        assert its == pytest.approx(right[test["silo"] == place].mean())


def test_visits_leave_shares_out() -> None:
    found = patterns.setups(splits.Split(Made(visits=2)), LEARNING)
    assert patterns.SHARES not in found
    assert patterns.SHARES not in patterns.names(Made(visits=2).rows())
    setup = found[patterns.CENTRAL_DP].setup
    facts = lab.facts_of(setup)
    assert facts.people is not None
    assert facts.people.most_each == 2
    assert setup.trainer.expected_people == facts.people.count


def test_intervals_know_that_re_splits_share_rows() -> None:
    # t of 2 degrees at 97.5%: 4.3027; deviation 0.1; 1/3 of a mean plus 0.5 shared.
    low, high = office.interval([0.7, 0.8, 0.9], 0.5)
    half = 4.302653 * 0.1 * math.sqrt(1 / 3 + 0.5)
    assert (low, high) == pytest.approx((0.8 - half, 0.8 + half), abs=1e-6)
    assert office.interval([0.7, 0.7], 0.5) == pytest.approx((0.7, 0.7))


def test_differences_are_paired_by_split() -> None:
    at = {"accuracy_at_A": 0.5, "accuracy_at_B": 0.4}
    rows = [
        {"pattern": p, "target_epsilon": math.inf, "seed": n, "accuracy": a, "auroc": a}
        | at | ({"accuracy_at_B": 0.7} if p == "alone: B" else {})
        for n, base in enumerate((0.6, 0.7, 0.8))
        for p, a in ((patterns.POOLED, base), ("alone: A", base - 0.1),
                     ("alone: B", base - 0.2), (patterns.FEDERATED, base + 0.05))
    ]  # fmt: skip
    found = office.with_intervals(rows, 0.5)
    told = next(row for row in found if row["pattern"] == patterns.FEDERATED)
    ends = [told[f"accuracy_minus_pooled_{end}"] for end in ("low", "high")]
    # Splits differ, but the difference does not.
    assert ends == pytest.approx([0.05, 0.05])
    assert told["accuracy_high"] - told["accuracy_low"] > 0.3
    assert told["best_alone"] == "A"
    assert told["accuracy_minus_best_alone"] == pytest.approx(0.15)
    assert told["own_minus_pooled"] is None
    own = next(row for row in found if row["pattern"] == "alone: B")
    assert own["own_minus_pooled"] == pytest.approx(0.3)
    assert own["own_minus_pooled_low"] == pytest.approx(0.3)


def test_costs_are_of_a_whole_training() -> None:
    found = patterns.setups(splits.Split(Made()), LEARNING)

    def cost(name: str) -> dict[str, Any]:
        setup = found[name].setup
        algorithm = setup.algorithm(lab.facts_of(setup))
        told = algorithm.cost()
        columns: dict[str, Any] = {"uplink_bytes": None}
        if told is not None:
            columns = {"uplink_bytes": told.uplink_bytes, "wan_seconds": 0.04}
            columns["downlink_bytes"] = told.downlink_bytes
            columns["protocol_rounds"] = told.rounds
        return office.costs(setup, columns)

    # 2 logits of 3 features and an intercept, 4 bytes each, 20 steps.
    assert cost(patterns.FEDERATED)["sent_bytes"] == 20 * 8 * 4
    assert cost(patterns.FEDERATED)["exchanges"] == 20
    assert cost(patterns.SUMMED)["sent_bytes"] > cost(patterns.FEDERATED)["sent_bytes"]
    largest = int((Made().rows().silo[splits.Split(Made()).is_train()] == 2).sum())
    assert cost(patterns.POOLED)["sent_bytes"] == largest * 4 * (3 + 1)
    assert cost("alone: small")["sent_bytes"] == 0
    shares = cost(patterns.SHARES)
    # Owners' rows alone, 4 columns and a label of 8 bytes.
    assert shares["sent_bytes"] > 60 * 5 * 8
    assert shares["exchanges"] > 5


@pytest.mark.parametrize(
    ("name", "visits"), [(patterns.CENTRAL_DP, 2), (patterns.SHARES, 1)]
)
def test_the_audit_finds_a_patient_where_there_is_no_noise(
    name: str, visits: int
) -> None:
    setup = patterns.setups(splits.Split(Made(visits)), LEARNING)[name].setup
    loud = lab.Point(setup.with_noise(1e-3), 0, {}, 1e-3)
    found = audits.lower_bound(loud, 40)
    # One of twenty models may lie beyond the threshold of the other half.
    assert found.at_least > 0.8 * found.ceiling > 1
    if name == patterns.SHARES:
        quiet = lab.Point(setup.with_noise(200.0), 0, {}, 1e-3)
        assert audits.lower_bound(quiet, 40).at_least < 0.5


def test_hospitals_counts() -> None:
    rows = real(Heart())
    assert np.bincount(rows.silo).tolist() == [303, 261, 46, 130]
    assert rows.x.shape == (740, 13)
    work = real(Workclass())
    assert dict(zip(work.names, np.bincount(work.silo).tolist(), strict=True)) == {
        "Federal-gov": 1432, "Local-gov": 3136, "Private": 33906,
        "Self-emp-inc": 1695, "Self-emp-not-inc": 3862, "State-gov": 1981,
    }  # fmt: skip
    assert work.x.shape == (46_012, 107 - 9)


def real(source: Any) -> Rows:
    name = {Heart: "heart_disease", Workclass: "adult"}[type(source)]
    if not os.environ.get("PPML_LAB_DATA"):
        pytest.skip(f"PPML_LAB_DATA is not set, so {name} cannot be read")
    if files.missing(name, datasets.sources(name).needed):
        pytest.skip(f"PPML_LAB_DATA has no complete {name}")
    return source.rows()


def own(path: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The command of the documentation, on a file of one's own."""
    short = ("--num-splits", "2", "--learning.rounds", "5", "--audit-runs", "0")
    short += ("--learning.personal-rounds", "1", "--learning.private-rounds", "2")
    return subprocess.run(
        [
            *(sys.executable, "-m", "experiments.hospitals", "smoke", *short),
            *("--out", f"{path}.out", "data:csv", "--data.path", path),
            *("--data.target", "y", "--data.silo", "hospital", *options),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_same_table_of_ones_own_file(tmp_path: Path) -> None:
    path = write(tmp_path / "my.csv", age=lambda n: "" if n in (3, 5) else None)
    found = own(path, "--data.user", "patient", *RANGES)
    assert found.returncode == 0, found.stderr
    assert "2 of 160 rows left out: missing age (2)" in found.stderr
    assert "'DP on shares' is left out" in found.stderr
    assert "features: age, bmi" in found.stderr
    assert "of bmi lie outside -2:2, cut" in found.stderr
    assert "each silo learns the other's part" in found.stderr
    with Path(f"{path}.out", "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["dataset"] for row in rows} == {
        "my.csv; 2 of 160 rows left out: missing age (2)"
    }
    assert {row["pattern"] for row in rows} >= {"alone: A", "alone: B", "pooled"}
    private = [row for row in rows if "central DP" in row["pattern"]]
    assert {row["privacy_unit"] for row in private} == {"example"}
    assert all(0 < float(row["epsilon_public"]) <= 4.0001 for row in private)
    assert {row["not_hidden"] for row in rows} == {patterns.NOT_HIDDEN}
    # Whoever guesses a row could test the guess by a digest.
    assert {row["data_digest"] for row in rows} == {""}
    assert all(float(row["accuracy_at_A"]) <= 1 for row in rows)


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({}, {"target": "died"}, "data.target: unknown column of my.csv 'died'"),
        ({}, {"silo": "hospitall"}, "did you mean 'hospital'"),
        ({}, {"user": "who"}, "data.user: unknown column of my.csv 'who'"),
        ({"bmi": lambda n: "high" if n == 7 else None}, {}, "'high' is not a number"),
        (
            {"hospital": lambda n: "A", "patient": str},
            {"user": "patient"},
            "data.silo 'hospital' is 'A' in every row",
        ),
        ({"y": lambda n: str(n % 3)}, {}, "has 3 different values"),
        ({"y": lambda n: "1"}, {}, "at least 2 classes are needed"),
        ({"age": lambda n: ""}, {}, "each of the 160 rows lacks a cell in age"),
        (
            {"patient": lambda n: str(n % 70)},
            {"user": "patient"},
            "70 of the people that data.user 'patient' tells apart",
        ),
        (
            {},
            {"ranges": ("height=0:1",)},
            "data.ranges: unknown column of numbers 'height'",
        ),
        ({}, {"other_range": "3:1"}, "the range of 'age', 3:1, must be the least"),
        ({}, {"other_range": "0:inf"}, "must be the least and a greater value, both"),
        ({}, {"ranges": ("age=200:300",)}, "no value of 'age' lies within 200:300"),
        ({}, {"silo": "y"}, "data.silo 'y' is data.target already"),
        ({}, {"user": "hospital"}, "data.user 'hospital' is data.silo already"),
        ({"y": lambda n: str(n / 7)}, {}, "name a target of two values"),
        ({"hospital": str}, {}, "data.silo 'hospital' has 160 values in 160 rows"),
        ({}, {"delimiter": ";"}, "give --data.delimiter ','"),
    ],
)
def test_files_that_are_refused(
    tmp_path: Path, change: Any, options: Any, said: str
) -> None:
    table = Csv(write(tmp_path / "my.csv", **change), **options)
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        table.rows()


def test_scaling_of_ones_own_columns_says_what_epsilon_does_not_cover(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "my.csv")
    ranged = Csv(path, ranges=("age=0:120",), other_range="-4:4", user="patient")
    assert "public" not in ranged.title
    taken = replace(ranged, other_range=None)
    assert "1 columns scaled by their least and greatest values" in taken.title
    assert "which epsilon takes as public" in capsys.readouterr().err
    assert np.abs(taken.rows().x[:, 1]).max() == 1
    assert np.abs(ranged.rows().x).max() < 1


def test_constant_columns_and_all_categories_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = ["red", "blue", *[f"rare{n}" for n in range(7)]]
    path = write(
        tmp_path / "my.csv",
        bmi=lambda n: "2020",
        age=lambda n: kinds[n % len(kinds)],
    )
    table = Csv(path, user="patient", one_hot=("age",))
    rows = table.rows()
    assert rows.x.shape == (160, 1 + len(kinds))
    assert (rows.x[:, 0] == 0).all()
    assert (rows.x[:, 1:].sum(axis=1) == 1).all()
    said = capsys.readouterr().err
    assert "constant, and so left at 0: bmi" in said
    assert "categories of age are those in the file" in table.title


def test_tabulators_and_rows_that_repeat(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(write(tmp_path / "my.csv", patient=lambda n: "7"))
    tabs = path.with_suffix(".tsv")
    lines = path.read_text().splitlines()
    tabs.write_text("\n".join([*lines, lines[-1]]).replace(",", "\t"))
    assert len(Csv(str(tabs)).rows().y) == 161
    assert "1 rows repeat others" in capsys.readouterr().err


def test_nobody_to_test_on() -> None:
    with pytest.raises(ValueError, match="leaves nobody to test on"):
        splits.Split(Made(), train_share=0.999).is_train()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.path .* is not an existing"):
        Csv(str(tmp_path / "none.csv")).rows()


def test_two_silos_share_their_sums_among_servers(tmp_path: Path) -> None:
    split = splits.Split(Csv(write(tmp_path / "my.csv"), user="patient"))
    found = patterns.setups(split, LEARNING)
    for name in (patterns.SUMMED, patterns.CENTRAL_DP):
        assert isinstance(found[name].setup.secure_sum, parts.AdditiveSharing)


def test_a_delta_that_promises_nobody_anything() -> None:
    made: Any = Made()
    with pytest.raises(ValueError, match=r"below one over the 90 people.*--delta"):
        hospitals.points(replace(hospitals.CONFIGS["smoke"], data=made, delta=0.02))
