"""The random search of privacy_utility: its draws, its winners, its edges."""

import csv
import math
from dataclasses import replace

import pytest

from experiments import privacy_utility
from experiments.tuned import patterns, search
from ppml_lab import lab
from ppml_lab.dp import events, selection
from ppml_lab.lab import building

STUDY = patterns.Study()
SMALL = search.Search(num_settings=3, num_seeds=2)


@pytest.fixture(scope="module")
def points():
    return search.points(SMALL)


def test_every_pattern_is_searched_alike(points):
    assert len(points) == 7 * 3 * 2
    assert {point.seed for point in points} == {1000, 1001}
    seen = {}
    for point in points:
        label = point.labels
        mine = seen.setdefault(label["pattern"], {})
        numbers = patterns.numbers(point.setup)
        assert {name: label[name] for name in patterns.COLUMNS} == pytest.approx(
            numbers
        )
        assert mine.setdefault(label["setting"], numbers) == numbers
        # A third of the rounds, judged by rows that are not trained.
        assert point.setup.schedule.num_rounds == 10
        assert point.setup.schedule.validation == 0.1
        box = STUDY.boxes()[label["pattern"]]
        for name, value in numbers.items():
            if value is not None:
                low, high = getattr(box, name)
                assert low <= value < high
                assert high == pytest.approx(100 * low)
        private = patterns.is_private(point.setup)
        assert label["target_epsilon"] == (1.0 if private else math.inf)
    # One draw for all that have a number in common, over boxes of their own.
    assert seen["federated"] == seen["federated + secure sum"]
    assert seen["federated + central DP"] == seen["federated + central DP + secure sum"]


def row(pattern="federated", setting=0, value=0.5, **more):
    return {"pattern": pattern, "setting": setting, "validation_accuracy": value} | more


def test_the_best_mean_wins_and_what_diverged_does_not():
    rows = [
        row(setting=0, value=0.6), row(setting=0, value=0.8),
        row(setting=1, value=0.9), row(setting=1, value=float("nan")),
        row(setting=2, value=0.69), row(setting=2, value=0.7),
    ]  # fmt: skip
    found = search.ranked(rows)["federated"]
    assert found.setting == 0
    assert found[1:] == pytest.approx((0.7, 0.695, 0.45))
    # Rows as files have them, where what diverged is empty.
    texts = [{k: "" if v != v else str(v) for k, v in one.items()} for one in rows]
    assert search.ranked(texts)["federated"] == found


def test_the_outer_tenths_of_a_range_are_its_edges():
    box = patterns.Box()
    inside = {"client_rate": 1.0, "server_rate": 6.3, "clip_norm": None}
    assert search.at_edge(inside, box) == ""
    assert search.at_edge(inside | {"server_rate": 6.4}, box) == "server_rate"
    low = inside | {"client_rate": 0.15, "clip_norm": 0.1}
    assert search.at_edge(low, box) == "client_rate, clip_norm"


def test_choosing_is_priced_above_one_run(points):
    private = next(p for p in points if patterns.is_private(p.setup))
    plain = next(p for p in points if not patterns.is_private(p.setup))

    def price(settings, seeds=1):
        return search.price(
            private, search.Search(num_settings=settings, num_seeds=seeds)
        )

    assert search.price(plain, search.Search()) == 0
    assert 1 < price(2) < price(16) < 10
    # A setting is judged by all its seeds: it costs as much as they do together.
    run = building.events_of(private.setup)(private.setup.schedule.num_rounds)
    twice = run._replace(event=events.compose(run.event, 2))
    law = selection.poisson(16)
    assert price(16, 2) == selection.epsilon(twice, private.delta, law) > price(16)


@pytest.fixture
def folder(tmp_path):
    """A search's table, in which setting 1 is everybody's best."""
    rows = [
        row(
            pattern, setting, 0.1 + 0.2 * (setting == 1), dataset="Digits",
            client_rate=0.1 * (setting + 1),
            server_rate="" if pattern.startswith("central") else 2.0 + setting,
            clip_norm=3.0 if "DP" in pattern else "", epsilon_of_choosing=1.5,
        )
        for pattern in STUDY.setups() for setting in range(3)
    ]  # fmt: skip

    def write(**changes):
        with (tmp_path / "table.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows([one | changes for one in rows])
        return str(tmp_path)

    return write


def test_a_comparison_takes_the_winners_numbers(folder):
    config = privacy_utility.Comparison(
        settings=folder(), target_epsilons=(math.inf, 4.0), num_seeds=1
    )
    for point in privacy_utility.points(config):
        numbers = patterns.numbers(point.setup)
        name = point.labels["pattern"]
        assert numbers["client_rate"] == pytest.approx(0.2)
        assert numbers["server_rate"] == (None if name.startswith("central") else 3.0)
        assert numbers["clip_norm"] == (3.0 if "DP" in name else None)


def test_another_searchs_table_is_refused(folder, tmp_path):
    with pytest.raises(
        ValueError, match="is a search on FashionMnist, but this study uses Digits"
    ):
        search.found_in(folder(dataset="FashionMnist"), STUDY)
    with pytest.raises(ValueError, match="must have the patterns"):
        search.found_in(folder(pattern="mine"), STUDY)
    with pytest.raises(ValueError, match="does not exist; run the search"):
        search.found_in(str(tmp_path / "none"), STUDY)


def test_configurations_name_their_searches():
    for name, config in privacy_utility.CONFIGS.items():
        if name.startswith("paper_"):
            found = privacy_utility.CONFIGS[name.replace("paper", "search")]
            assert isinstance(config, privacy_utility.Comparison)
            assert isinstance(found, search.Search)
            assert found.study == config.study
            assert config.settings.endswith(f"/search_{name.removeprefix('paper_')}")


def test_patterns_differ_in_what_their_names_say():
    setups = STUDY.setups()
    noisy, summed = "federated + central DP", "federated + central DP + secure sum"
    clear = replace(setups[summed], secure_sum=lab.parts.Clear())
    assert clear == setups[noisy]
