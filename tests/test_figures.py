"""What figures share, and that no series is left out."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from paper_figures import common, dp_fedavg, heterogeneity, privacy_utility

FIGURES = Path(common.__file__).parent
RESULTS = FIGURES.parent / "results"


def write(folder, *rows):
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_looks_never_repeat():
    most = len(common.COLOURS) * len(common.MARKERS)
    for count in range(1, most + 1):
        found = common.looks(range(count))
        assert list(found) == [*range(count)]
        assert len(set(found.values())) == count
    first = list(common.looks(range(8)).values())
    assert len({look.color for look in first}) == 8
    assert len({look.marker for look in first}) == 8
    assert common.looks("abca") == common.looks("abc")
    with pytest.raises(ValueError, match="65 series"):
        common.looks(range(most + 1))


def test_six_clip_norms_are_six_lines():
    row = common.where(common.read(RESULTS / "dp_fedavg"), cohort="50")[0]
    norms = ("0.03", "0.1", "0.3", "1", "3", "10")
    rows = [
        row | {"clip_norm": norm, "noise": noise, "projected_epsilon_rdp": noise}
        for norm in norms
        for noise in ("0.5", "1")
    ]
    figure = dp_fedavg.draw(rows)
    for axis in figure.axes:
        lines = [line for line in axis.lines if line.get_marker() in common.MARKERS]
        assert len({(line.get_color(), line.get_marker()) for line in lines}) == 6
        _, labels = axis.get_legend_handles_labels()
        assert labels == [f"clip {norm}" for norm in norms]
    plt.close(figure)


def test_an_algorithm_of_ones_own_is_drawn():
    rows = common.read(RESULTS / "heterogeneity")
    mine = [row | {"algorithm": "mine"} for row in common.where(rows, seed="0")]
    figure = heterogeneity.draw(rows + mine)
    _, labels = figure.axes[0].get_legend_handles_labels()
    assert labels[:4] == ["fedavg", "fedprox", "scaffold", "mine"]
    plt.close(figure)


def test_what_a_figure_does_not_know_is_refused():
    rows = common.read(RESULTS / "privacy_utility")
    rows.append(rows[0] | {"pattern": "federated + shuffling"})
    with pytest.raises(
        ValueError, match="the figure has no place for pattern federated \\+ sh"
    ):
        privacy_utility.draw(rows)


def test_named_configurations_are_joined(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no table\.csv with rows"):
        common.read(tmp_path)
    write(tmp_path / "more", {"x": 2, "extra": 3})
    write(tmp_path / "smoke", {"x": 9})
    assert common.read(tmp_path) == [{"x": "2", "extra": "3", "configuration": "more"}]
    write(tmp_path, {"x": 1})
    rows = common.read(tmp_path)
    assert [row["x"] for row in rows] == ["1", "2"]
    assert common.distinct(rows, "configuration") == ["", "more"]
    assert common.read(tmp_path / "smoke")[0]["x"] == "9"


def test_means_spreads_and_intervals():
    values = np.random.default_rng(0).normal(size=25)
    assert common.mean_and_spread(np.array([1.0, 2.0, np.nan, 6.0])) == (
        3.0,
        pytest.approx(7**0.5),
    )
    assert np.isnan(common.mean_and_spread(np.array([1.0]))[1])
    assert np.isnan(common.half_interval(values[:1]))
    for count in range(2, 26):
        low, high = stats.t.interval(0.95, count - 1, scale=stats.sem(values[:count]))
        # Beyond 10 values the normal quantile stands for Student's.
        tolerance = 3e-3 if count < 11 else 0.14
        found = 2 * common.half_interval(values[:count])
        assert found == pytest.approx(high - low, rel=tolerance)
    rows = [{"x": x, "y": y} for x, y in (("10", "1"), ("2", "3"), ("10", "2"))]
    places, means, spreads = common.over(rows, "x", "y", scale=100)
    assert (places, means) == ([2.0, 10.0], [300.0, 150.0])
    assert spreads[1] == pytest.approx(100 * 0.5**0.5)


def test_files_are_small_and_the_same_for_the_same_figure(tmp_path):
    figure, axis = plt.subplots()
    axis.plot([0, 1], "o-")
    common.save(figure, tmp_path / "once")
    common.save(figure, tmp_path / "again")
    for suffix in ("png", "pdf"):
        once, again = (
            (tmp_path / f"{n}.{suffix}").read_bytes() for n in ("once", "again")
        )
        assert once == again
    random = np.random.default_rng(0)
    figure, axis = plt.subplots(figsize=(6, 6))
    axis.plot(*random.random((2, 150)))
    common.save(figure, tmp_path / "coarse")
    assert plt.imread(tmp_path / "coarse.png").shape[1] == 6 * 125
    assert (tmp_path / "coarse.png").stat().st_size < common.LARGEST
    figure = plt.figure(figsize=(6, 6))
    figure.figimage(random.random((450, 450)))
    with pytest.raises(ValueError, match="draw fewer points"):
        common.save(figure, tmp_path / "large")


def test_arguments(tmp_path, monkeypatch):
    def never(rows):
        raise AssertionError

    for arguments, said in (
        (["a", "b"], "usage: python -m paper_figures.mine"),
        (["--help"], "usage: "),
        ([str(tmp_path)], "error: no table.csv"),
        ([], f"no table.csv with rows in {tmp_path / 'results' / 'mine'}"),
    ):
        monkeypatch.setattr(sys, "argv", ["mine.py", *arguments])
        with pytest.raises(SystemExit, match=said):
            common.main(str(tmp_path / "paper_figures" / "mine.py"), never)


@pytest.mark.parametrize("path", sorted(FIGURES.glob("*.py")), ids=lambda p: p.stem)
def test_figures_read_and_write_in_one_place(path):
    if path.stem != "common":
        source = path.read_text()
        for own in (
            "import csv",
            "sys.argv",
            "savefig",
            "matplotlib.use",
            "strict=False",
        ):
            assert own not in source
        assert f"python -m paper_figures.{path.stem} [results folder]" in source
