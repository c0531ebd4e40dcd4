"""`compare` mixes no data, experiments or promises, unless asked."""

from __future__ import annotations

import json

import pytest

from ppml_lab.__main__ import main
from ppml_lab.cli.alike import BESIDE, NEEDED, OF_EPSILONS

SAID = {
    "dataset": "Digits",
    "model": "Mlp(widths=(64, 64))",
    "metric": "accuracy",
    "privacy_unit": "client",
    "neighboring_relation": "zero_out",
    "adversary": "public",
    "experiment": "mine",
    "data_digest": "0a",
    "delta": "1e-05",
    "measured_or_projected": "measured",
    "trust": "central",
}


def write(path, rows=4, without=(), key="seed", **changed):
    """A table of seeds, whose other columns are one value or one for each seed."""
    said = {k: v for k, v in (SAID | changed).items() if k not in without}
    lines = [",".join(["kind", "seed", "accuracy", "key", *said])]
    for seed in range(rows):
        own = [v[seed] if isinstance(v, list) else v for v in said.values()]
        cells = [f'"{cell}"' for cell in own]
        lines.append(",".join(["x", str(seed), str(seed / 7), key, *cells]))
    path.write_text("\n".join(lines) + "\n")
    return path


def compared(capsys, *args):
    assert main(["compare", *map(str, args), "--metric", "accuracy"]) == 0
    return capsys.readouterr().out


def refused(capsys, *args):
    assert main(["compare", *map(str, args), "--metric", "accuracy"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    return said.err


@pytest.mark.parametrize("name", [name for name in SAID if name != "trust"])
def test_what_differs_is_named_with_both_values(capsys, tmp_path, name):
    a, b = write(tmp_path / "a.csv"), write(tmp_path / "b.csv", **{name: "Other"})
    said = refused(capsys, a, b)
    assert f"{name} is {SAID[name]} in {a} and Other in {b};" in said
    assert said.endswith(f"--across {name}\n")
    assert f"the tables differ: {name} is" in compared(capsys, a, b, "--across", name)
    other = "model" if name != "model" else "dataset"
    assert refused(capsys, a, b, "--across", other).endswith(
        f"--across {other} {name}\n"
    )


@pytest.mark.parametrize("name", OF_EPSILONS)
def test_epsilons_are_of_one_delta_and_one_trust(capsys, tmp_path, name):
    a = write(tmp_path / "a.csv", epsilon_public=["1", "2", "3", "4"])
    b = tmp_path / "b.csv"
    write(b, epsilon_public=["2", "3", "4", "6"], **{name: "Other"})
    asked = [str(a), str(b), "--metric", "epsilon_public"]
    assert main(["compare", *asked]) == 2
    said = capsys.readouterr().err
    assert f"{name} is {SAID[name]} in {a} and Other in {b};" in said
    assert said.endswith(f"--across {name}\n")
    assert main(["compare", *asked, "--across", name]) == 0
    assert f"the tables differ: {name} is" in capsys.readouterr().out
    # How accurate a model is does not depend on who is trusted.
    if name not in BESIDE:
        assert "the tables differ" not in compared(capsys, a, b)


def test_an_epsilon_whose_table_has_no_delta_is_compared_with_none(capsys, tmp_path):
    a = write(tmp_path / "a.csv", epsilon_rdp=["1", "2", "3", "4"])
    b = tmp_path / "b.csv"
    write(b, without=("delta",), epsilon_rdp=["2", "3", "4", "6"])
    asked = ["compare", str(a), str(b), "--metric", "epsilon_rdp"]
    assert main(asked) == 2
    said = capsys.readouterr().err
    assert f"{b} lacks the columns delta; make the table again" in said
    assert said.endswith("--across delta\n")
    assert main([*asked, "--across", "delta"]) == 0
    assert "lacks the columns delta" in capsys.readouterr().out
    assert "lacks the columns" not in compared(capsys, a, b)


def test_all_that_differs_is_told_at_once(capsys, tmp_path):
    a = write(tmp_path / "a.csv", privacy_unit="", neighboring_relation="")
    b = write(tmp_path / "b.csv")
    said = refused(capsys, a, b)
    assert f"privacy_unit is nothing in {a} and client in {b}; neighboring_rel" in said
    asked = ["--across", "privacy_unit", "neighboring_relation", "--json"]
    found = json.loads(compared(capsys, a, b, *asked))
    assert found["differing"]["neighboring_relation"] == ["nothing", "zero_out"]
    assert found["groups"][0]["test"] == "paired"


def test_pairs_agree_seed_by_seed_and_others_together(capsys, tmp_path):
    dealt = [write(tmp_path / f"{n}.csv", n, data_digest=[*"abcd"]) for n in (2, 4)]
    assert "the tables differ" not in compared(capsys, *dealt)
    swapped = write(tmp_path / "swapped.csv", 2, data_digest=["b", "a"])
    assert "data_digest is a in" in refused(capsys, dealt[0], swapped)
    one = write(tmp_path / "one.csv", 2, data_digest=["a", "b"], key="1")
    two = write(tmp_path / "two.csv", 2, data_digest=["b", "a"], key="2")
    assert "Welch" in compared(capsys, one, two)
    more = write(tmp_path / "more.csv", 3, data_digest=["b", "a", "c"], key="2")
    assert "data_digest is a, b in" in refused(capsys, one, more)


def test_a_column_ahead_of_the_seed_is_told_of_too(capsys, tmp_path):
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path, dataset in zip(paths, ("Digits", "Mnist"), strict=True):
        rest = [name for name in NEEDED if name != "dataset"]
        lines = [",".join(["dataset", "seed", "accuracy", *rest])]
        lines += [f"{dataset},{seed},0.{seed}" + "," * len(rest) for seed in (1, 2)]
        path.write_text("\n".join(lines) + "\n")
    assert f"dataset is Digits in {paths[0]} and Mnist in" in refused(capsys, *paths)
    assert "the tables differ: dataset" in compared(
        capsys, *paths, "--across", "dataset"
    )


def test_tables_that_do_not_say_what_they_are(capsys, tmp_path):
    new, old = write(tmp_path / "new.csv"), tmp_path / "old.csv"
    write(old, without=SAID)
    said = refused(capsys, new, old)
    assert f"{old} lacks the columns dataset, model, metric, privacy_unit, ne" in said
    assert "make the table again with its experiment" in said
    assert said.endswith("--across all\n")
    assert f"{old} lacks the columns dataset" in compared(
        capsys, old, new, "--across", "all"
    )
    part = write(tmp_path / "part.csv", without=("adversary", *BESIDE))
    assert refused(capsys, new, part).endswith("--across adversary\n")
    assert "lacks the columns adversary" in compared(
        capsys, new, part, "--across", "adversary"
    )


def test_what_cannot_be_asked_for_or_compared(capsys, tmp_path):
    a = write(tmp_path / "a.csv")
    assert "did you mean 'dataset'" in refused(capsys, a, a, "--across", "datset")
    b = tmp_path / "b.csv"
    b.write_text(a.read_text().replace("x,3,", "x,,"))
    assert "rows without a seed, such as means" in refused(capsys, a, b)
