"""Figures of tables: the right means at the right places, and no silent mixing."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import lab, tables
from ppml_lab.lab import drawing
from ppml_lab.lab.disk import records
from ppml_lab.lab.plots import plot

INF = math.inf
DP: dict[str, Any] = {
    "privacy_unit": "client",
    "neighboring_relation": "add_or_remove_one",
    "delta": 1e-5,
}


def rows(**more: Any) -> list[dict[str, Any]]:
    """Two methods at three epsilons, three seeds each."""
    return [
        {"method": method, "target_epsilon": target, "seed": seed}
        | {"epsilon_public": target, "accuracy": 0.1 * at + 0.01 * seed * (m + 1)}
        | (DP if target < INF else dict.fromkeys(DP))
        | more
        for m, method in enumerate(("plain", "secure"))
        for at, target in enumerate((1.0, 4.0, INF))
        for seed in range(3)
    ]


def drawn_lines(found: Any) -> list[Any]:
    """The markers and lines of a figure, without levels and edges."""
    (axes,) = found.figure.axes
    return [container.lines[0] for container in axes.containers]


def test_lines_are_means_with_their_intervals() -> None:
    found = plot(rows(), "epsilon_public", "accuracy", "method")
    assert [*found.lines] == [("plain",), ("secure",)]
    for m, places in enumerate(found.lines.values()):
        assert [place.x for place in places] == [1.0, 4.0, INF]
        for at, place in enumerate(places):
            values = [0.1 * at + 0.01 * seed * (m + 1) for seed in range(3)]
            assert place.y == tables.mean(values)
    (axes,) = found.figure.axes
    finite = drawn_lines(found)[0]
    assert [*finite.get_xdata()] == [1, 4]
    assert [*finite.get_ydata()] == pytest.approx([0.01, 0.11])
    # Intervals are drawn where they are.
    bars = axes.containers[0].lines[2][0].get_segments()
    place = found.lines["plain",][0]
    assert (place.y.low, place.y.high) == pytest.approx(tuple(bars[0][:, 1]))


def test_infinity_is_a_mark_at_the_side_with_its_level() -> None:
    found = plot(rows(), "epsilon_public", "accuracy", "method")
    (axes,) = found.figure.axes
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["1", "4", "∞"]
    beyond = axes.get_xticks()[-1]
    assert beyond > 4
    marks = [line.get_xdata() for line in drawn_lines(found)]
    assert [[*mark] for mark in marks] == [[1, 4], [beyond], [1, 4], [beyond]]
    levels = [
        line.get_ydata()[0] for line in axes.lines if [*line.get_xdata()] == [0, 1]
    ]
    assert {*levels} >= {found.lines["plain",][2].y.mean}
    assert any(note.startswith("∞: epsilon_public is infinite") for note in found.notes)
    # Once in the legend, though twice drawn.
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["plain", "secure"]
    # A table without any budget has one place for all.
    none = [row for row in rows() if row["target_epsilon"] == INF]
    (axes,) = plot(none, "epsilon_public", "accuracy", "method").figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["∞"]


@pytest.mark.parametrize(
    ("column", "others"),
    [
        ("privacy_unit", "example"),
        ("neighboring_relation", "replace_one"),
        ("adversary", "server"),
        ("delta", 1e-3),
    ],
)
@pytest.mark.parametrize("x", ["epsilon_public", "target_epsilon"])
def test_epsilons_of_two_meanings_share_no_axis_unless_it_is_said(
    column: str, others: Any, x: str
) -> None:
    mixed = [row | {"adversary": "public"} for row in rows()]
    mixed = [
        row | {column: others} if row["method"] == "secure" else row for row in mixed
    ]
    words = rf"{x} does not mean the same .* {column} is .* and {others}; add {column}"
    with pytest.raises(ValueError, match=words):
        plot(mixed, x, "accuracy", "method")
    with pytest.raises(ValueError, match=words):
        # On the other axis too.
        plot(mixed, "method", x)
    (axes,) = plot(mixed, x, "accuracy", ("method", column)).figure.axes
    said = [text.get_text() for text in axes.get_legend().get_texts()]
    assert any(str(others).removeprefix("1e-3") in text for text in said)
    chosen = plot(mixed, x, "accuracy", where={"method": "secure"})
    assert len(chosen.lines) == 1
    if column == "privacy_unit":
        assert "example, add_or_remove_one" in chosen.figure.axes[0].get_xlabel()


@pytest.mark.parametrize(
    "column", ["privacy_unit", "neighboring_relation", "adversary", "delta"]
)
def test_what_some_epsilons_do_not_say_is_not_what_others_say(column: str) -> None:
    said = [row | {"adversary": "public"} for row in rows()]
    for lost in (
        [row | ({column: None} if row["method"] == "plain" else {}) for row in said],
        [
            {k: v for k, v in row.items() if k != column or row["method"] == "plain"}
            for row in said
        ],
    ):
        for axes in (("epsilon_public", "accuracy"), ("method", "target_epsilon")):
            with pytest.raises(ValueError, match=rf"{column} is .*not said.*; add"):
                plot(lost, *axes, () if axes[0] == "method" else "method")
        found = plot(lost, "epsilon_public", "accuracy", ["method", column])
        # The title is of all rows, and not of those alone that say something.
        title = found.figure.axes[0].get_xlabel().removeprefix("epsilon_public")
        assert str((DP | {"adversary": "public"})[column]) not in title
        assert title.count(",") == 2
    # A table of epsilons alone, beside one that says everything.
    bare = [{k: v for k, v in row.items() if k not in DP} for row in said[:9]]
    with pytest.raises(ValueError, match=r"privacy_unit is not said and client; add"):
        plot(bare + said[9:], "epsilon_public", "accuracy", "method")
    # Where no row says it, there is nothing to mix.
    plot([row | {column: None} for row in said], "epsilon_public", "accuracy", "method")


def test_other_data_share_no_axis_unless_it_is_said() -> None:
    mixed = rows(dataset="digits")
    for row in mixed[9:]:
        row["dataset"] = "adult"
    with pytest.raises(ValueError, match=r"accuracy does not .* digits and adult"):
        plot(mixed, "epsilon_public", "accuracy", "method")
    plot(mixed, "epsilon_public", "accuracy", ("method", "dataset"))
    by_data = plot(mixed[:3] + mixed[9:12], "dataset", "accuracy")
    assert [place.x for place in by_data.lines[()]] == ["digits", "adult"]


def test_what_is_projected_is_not_drawn_as_measured() -> None:
    mixed = rows(measured_or_projected="measured")
    for row in mixed[9:]:
        row["measured_or_projected"] = "projected"
    with pytest.raises(ValueError, match=r"measured and projected; add measured_or"):
        plot(mixed, "epsilon_public", "accuracy", "method")
    plot(mixed, "epsilon_public", "accuracy", ("method", "measured_or_projected"))


def test_configurations_are_never_averaged() -> None:
    with pytest.raises(ValueError, match=r"target_epsilon 1\.0, but differ in method"):
        plot(rows(), "target_epsilon", "accuracy")
    # Other seeds of another configuration are no more seeds of this one.
    pair = [
        {"rate": r, "clip": r, "seed": s, "loss": s} for r in (1, 2) for s in (0, 1)
    ]
    apart = [row | {"rate": 1, "seed": row["seed"] + 2 * row["clip"]} for row in pair]
    with pytest.raises(ValueError, match="rate 1, but differ in clip; add this to by"):
        plot(apart, "rate", "loss")
    # What goes together is one line.
    assert len(plot(pair, "rate", "loss").lines[()]) == 2
    with pytest.raises(ValueError, match="several rows have seed 0"):
        plot([*pair, pair[0]], "rate", "loss")


def test_what_is_not_finite_is_left_out_and_counted() -> None:
    broken = rows()
    for row, value in zip(broken, (math.nan, INF, None, "nan"), strict=False):
        row["accuracy"] = value
    broken[-1]["epsilon_public"] = None
    broken[-2]["epsilon_public"] = -INF
    found = plot(broken, "epsilon_public", "accuracy", "method")
    said = "; ".join(found.notes)
    assert "2 of 18 rows left out: no epsilon_public" in said
    assert "4 of 18 rows left out: no finite accuracy" in said
    assert "means over 1 to 3 seeds" in said
    assert said in found.figure._supxlabel.get_text()
    counts = [place.y.count for line in found.lines.values() for place in line]
    assert sum(counts) == 12
    with pytest.raises(
        ValueError, match=r"no row has both x .* and a finite y .method"
    ):
        plot(broken, "epsilon_public", "method")


def test_categories_stand_side_by_side() -> None:
    kinds: list[dict[str, Any]] = [
        {"partition": p, "method": m, "seed": s, "loss": s + len(p)}
        for p in ("iid", "dirichlet", "2")
        for m in ("a", "b")
        for s in (0, 1)
    ]
    found = plot(kinds, "partition", "loss", "method")
    (axes,) = found.figure.axes
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["iid", "dirichlet", "2"]
    places = np.array([line.get_xdata() for line in drawn_lines(found)], float)
    assert (np.diff(places, axis=0) > 0.1).all()
    np.testing.assert_allclose(places.mean(axis=0), [0, 1, 2])
    # Truth values are none either, and one text makes all categories.
    for row, value in zip(kinds, (True, False, 3, "x") * 3, strict=True):
        row["partition"] = value
        row["seed"] = len(row) * id(row)
    assert len(plot(kinds, "partition", "loss", "method").lines["a",]) == 2


@pytest.mark.parametrize("count", [8, 40])
def test_long_names_at_the_axis_do_not_touch(count: int) -> None:
    name = "federated averaging with central noise and a secure sum, number"
    rows = [{"pattern": f"{name} {i}", "seed": 0, "loss": i} for i in range(count)]
    found = plot(rows, "pattern", "loss")
    found.figure.draw_without_rendering()
    labels = found.figure.axes[0].get_xticklabels()
    assert len({label.get_text() for label in labels}) == count
    if labels[0].get_rotation() == 90:
        boxes = [label.get_window_extent() for label in labels]
        assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(boxes))
    assert labels[0].get_window_extent().x0 >= 0


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ((0.5, 1, 2, 4, 8), "log"),
        ((1, 10, 100), "log"),
        ((0, 0.02, 0.1, 0.5, 1), "symlog"),
        ((10, 20, 30, 40, 50), "linear"),
        ((0, 1, 2, 3), "linear"),
        ((1, 1000), "log"),
        ((-1, 1, 100), "linear"),
        ((5,), "linear"),
        ((2, 4, 6, 8, 10, 12), "linear"),
    ],
)
def test_scales_follow_the_spacing(values: tuple[float, ...], scale: str) -> None:
    table = [{"n": n, "seed": s, "loss": 1 + s} for n in values for s in (0, 1)]
    (axes,) = plot(table, "n", "loss").figure.axes
    assert axes.get_xscale() == scale
    axis = drawing.across("n", values, "auto")
    places = [axis.at(value) for value in values]
    assert places == sorted(places) == [*map(float, values)]


def test_a_scale_that_does_not_have_a_number_is_refused() -> None:
    table = [{"n": n, "seed": 0, "loss": n} for n in (0, 1, 2)]
    log: Any = "log"
    for name in ("x_scale", "y_scale"):
        with pytest.raises(ValueError, match=r"is 0 in a row, .* scale symlog"):
            plot(table, "n", "loss", **{name: log})
    wrong: Any = "logarithmic"
    with pytest.raises(ValueError, match="x_scale must be 'auto' or 'linear' or"):
        plot(table, "n", "loss", x_scale=wrong)


def test_more_lines_than_colours_are_told_apart_and_too_many_refused() -> None:
    def many(count: int) -> list[dict[str, Any]]:
        return [{"n": n, "line": k, "seed": 0, "loss": k} for k in range(count)
                for n in (1, 2)]  # fmt: skip

    lines = drawn_lines(plot(many(60), "n", "loss", "line"))
    looks = {(one.get_color(), one.get_marker(), one.get_linestyle()) for one in lines}
    assert len(looks) == 60
    with pytest.raises(
        ValueError, match="makes 225 lines, but only 224 can be told apart"
    ):
        plot(many(225), "n", "loss", "line")


def test_a_place_that_each_seed_measures_is_their_mean() -> None:
    table = [
        {"method": m, "seed": s, "seconds": 10 * k + s, "loss": s}
        for k, m in enumerate("ab")
        for s in (0, 1, 2)
    ]
    found = plot(table, "seconds", "loss", "method")
    assert [line[0].x for line in found.lines.values()] == [1.0, 11.0]


def test_tables_on_disk_and_of_arrays_are_alike(tmp_path: Path) -> None:
    table = rows()
    records.write_table(tmp_path / "table.csv", table)
    arrays = [
        {name: np.float32(v) if isinstance(v, float) else v for name, v in row.items()}
        for row in table
    ]
    arrays[0]["accuracy"] = jnp.float32(0.0)
    found = [
        plot(given, "target_epsilon", "accuracy", "method").lines
        for given in (table, arrays, tmp_path, str(tmp_path / "table.csv"))
    ]
    for lines in found[1:]:
        for one, other in zip(found[0].values(), lines.values(), strict=True):
            for here, there in zip(one, other, strict=True):
                assert here.x == there.x
                assert here.y.mean == pytest.approx(there.y.mean, rel=1e-5)


def test_columns_that_are_not_there_are_named(tmp_path: Path) -> None:
    for wrong in (("epsilon_pubic", "accuracy"), ("epsilon_public", "acuracy")):
        with pytest.raises(ValueError, match=r"unknown column .* did you mean"):
            plot(rows(), *wrong)
    with pytest.raises(ValueError, match="by: unknown column 'methods'"):
        plot(rows(), "epsilon_public", "accuracy", "methods")
    with pytest.raises(ValueError, match="where: no row of the table has method x"):
        plot(rows(), "epsilon_public", "accuracy", where={"method": "x"})
    with pytest.raises(ValueError, match="table has no rows"):
        plot([], "a", "b")
    with pytest.raises(ValueError, match="cannot be read as a table"):
        plot(tmp_path, "a", "b")


def test_files_are_as_they_are_called_and_the_same_twice(tmp_path: Path) -> None:
    found = lab.plots.plot(rows(seed=0)[::3], "target_epsilon", "accuracy", "method")
    assert "one seed: no intervals" in found.notes
    both = found.save(tmp_path / "new" / "epsilon_0.5")
    assert [path.name for path in both] == ["epsilon_0.5.pdf", "epsilon_0.5.png"]
    before = both[0].read_bytes()
    (again,) = found.save(tmp_path / "a.PDF")
    assert again.name == "a.PDF"
    assert again.read_bytes() == before
    assert both[1].read_bytes()[:4] == found._repr_png_()[:4] == b"\x89PNG"
