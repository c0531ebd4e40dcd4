"""`list`, `show`, `compare` and `cost` at the prompt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy import stats

from ppml_lab.__main__ import main
from ppml_lab.cli import compare, experiments, output, tables
from ppml_lab.cli.alike import NEEDED

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def printed(capsys, *args):
    assert main([*map(str, args)]) == 0
    return capsys.readouterr().out


def refused(capsys, *args):
    assert main([*map(str, args)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_list_finds_every_experiment(capsys):
    found = {
        about["name"]: about for about in json.loads(printed(capsys, "list", "--json"))
    }
    science, timed = ROOT / "experiments", ROOT / "experiments" / "benchmarks"
    stems = {path.stem for folder in (science, timed) for path in folder.glob("*.py")}
    assert set(found) == stems - {"bench"}
    about = found["privacy_utility"]
    sets = ("fashion", "writers", "adult", "scattering")
    assert about["configurations"] == [
        *("smoke", "smoke_writers", "smoke_adult", "search_smoke"),
        *(f"search_{name}" for name in sets),
        *(f"paper_{name}" for name in sets),
    ]
    assert about["question"] == "What does privacy cost in accuracy, bytes and time?"
    assert about["results"]["smoke"] == "results/privacy_utility/smoke/table.csv"
    assert about["question"] in printed(capsys, "list")


def test_list_elsewhere(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "no experiments in" in refused(capsys, "list")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.py").write_text('"""Why?\n\nSo."""\n')
    found = json.loads(printed(capsys, "list", "--json"))
    expected = {"name": "mine", "question": "Why?", "configurations": [], "results": {}}
    assert found == [expected]


def test_list_looks_below_for_what_has_configurations(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    below = tmp_path / "experiments" / "fast" / "er"
    below.mkdir(parents=True)
    assert "no experiments in" in refused(capsys, "list")
    (below / "timing.py").write_text('"""How fast?"""\nCONFIGS = {"smoke": 1}\n')
    (below / "worker.py").write_text("print 'of another Python'\n")
    (found,) = json.loads(printed(capsys, "list", "--json"))
    assert (found["name"], found["configurations"]) == ("timing", ["smoke"])
    path = experiments.find()["timing"]
    assert experiments.module(path) == "experiments.fast.er.timing"
    (tmp_path / "experiments" / "timing.py").write_text("")
    assert "experiments with the same name" in refused(capsys, "list")


def test_show_a_committed_table(capsys):
    args = ["show", "heterogeneity", "--columns", "seed", "algorithm", "--rows", "2"]
    rows = json.loads(printed(capsys, *args, "--json"))
    assert rows == [
        {"seed": 0, "algorithm": "fedavg"},
        {"seed": 0, "algorithm": "fedprox"},
    ]
    text = printed(capsys, *args)
    assert "2 of 36 rows" in text
    assert "fedprox" in text
    assert "scaffold" not in text


def test_show_names_once_what_all_rows_have(capsys):
    assert main(["show", "heterogeneity", "--rows", "2"]) == 0
    table, _, alike = capsys.readouterr().out.partition("In all rows: ")
    assert "experiment heterogeneity;" in alike
    assert "data_digest" not in table.splitlines()[1]
    assert main(["show", "heterogeneity", "--columns", "experiment", "seed"]) == 0
    shown = capsys.readouterr().out
    assert "In all rows" not in shown
    assert shown.splitlines()[1].split() == ["experiment", "seed"]


def test_show_refuses(capsys, tmp_path):
    assert "did you mean 'dp_sgd'" in refused(capsys, "show", "dp_sdg")
    assert "table must be a name or a path" in refused(capsys, "show", "")
    known = refused(capsys, "show", "dp_sgd", "--columns", "sed")
    assert "did you mean 'seed'" in known
    assert "rows must be" in refused(capsys, "show", "dp_sgd", "--rows", "0")
    (tmp_path / "table.csv").write_text("a,b\n1\n")
    assert "row 1 has 1 cells" in refused(capsys, "show", tmp_path)
    (tmp_path / "table.csv").write_text("")
    assert "is empty" in refused(capsys, "show", tmp_path)


def test_tables_of_spreadsheets_and_of_strangers(capsys, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfseed,method\n0,a\n\n1,\x1b[2Jb\n")
    assert [*tables.read(path)[0]] == ["seed", "method"]
    assert main(["show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert r"\x1b[2Jb" in shown
    assert "\x1b" not in shown
    assert main(["show", "x" * 5000]) == 2


def test_cells():
    assert tables.value("3") == 3
    assert tables.value("1e-05") == 1e-5
    texts = ("1_0", "nan", "12e3456")
    assert [tables.value(c) for c in ("", "True", *texts)] == [None, True, *texts]


def lines(capsys, rows, width):
    """The table's lines without blank ones and rules, each as its cells."""
    output.print_table(rows, width=width)
    text = capsys.readouterr().out.splitlines()
    assert max(map(len, text)) <= width
    return [line.split() for line in text if line.strip(" \u2500")]


def test_a_narrow_table_comes_in_blocks(capsys):
    # Columns are 10, 6 and 5 wide, numbers 2, with two spaces between.
    rows = [{"first": f"{i}" * 5, "second": 1.5, "third": None} for i in range(11)]
    whole = lines(capsys, rows, 25)
    assert whole[0] == ["first", "second", "third"]
    blocks = lines(capsys, rows, 24)
    assert blocks[0] == ["#", "first", "second"]
    assert blocks[1:12] == [[str(i), f"{i}" * 5, "1.5"] for i in range(11)]
    assert blocks[12:] == [["#", "third"], *([str(i)] for i in range(11))]
    assert lines(capsys, rows, 22)[:12] == blocks[:12]
    narrow = lines(capsys, rows, 21)
    assert narrow[:2] == [["#", "first"], ["0", "00000"]]
    assert narrow[12:14] == [["#", "second", "third"], ["0", "1.5"]]


def test_a_cell_wider_than_the_terminal_is_folded(capsys):
    rows = [{"first": "a" * 30, "second": "b"}]
    text = lines(capsys, rows, 20)
    assert "".join(cell for line in text for cell in line).count("a") == 30


def test_a_paired_test_by_hand():
    # Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t of 2 degrees 2 sqrt(3).
    found = compare.paired_test([(1.0, 2.0), (4.0, 6.0), (0.0, 3.0)])
    half = 4.302653 / 3**0.5
    assert found["difference"] == pytest.approx(2)
    assert found["low"] == pytest.approx(2 - half, rel=1e-6)
    assert found["high"] == pytest.approx(2 + half, rel=1e-6)
    assert found["p_value"] == pytest.approx(2 * stats.t.sf(2 * 3**0.5, 2))


def test_equal_differences_have_no_test():
    found = compare.paired_test([(0.7, 0.8), (0.6, 0.7)])
    assert found["p_value"] is None
    assert found["low"] == found["high"] == pytest.approx(0.1)


def write(folder, name, *rows, header="kind,seed,score"):
    """A table whose rows are of one data set and one promise, where they do not say."""
    alike = [column for column in NEEDED if column not in header.split(",")]
    lines = [",".join([header, *alike]), *(row + "," * len(alike) for row in rows)]
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def test_compare_pairs_by_labels(capsys, tmp_path):
    a = write(tmp_path, "a.csv", "x,0,1", "x,1,4", "x,2,0", "y,0,5", "z,0,1")
    b = write(tmp_path, "b.csv", "y,0,7", "x,2,3", "x,1,6", "x,0,2", "x,3,9")
    args = ["compare", a, b, "--metric", "score"]
    found = json.loads(printed(capsys, *args, "--json"))
    x, y = found["groups"]
    assert (x["labels"], x["pairs"], x["difference"]) == ({"kind": "x"}, 3, 2.0)
    assert (y["labels"], y["pairs"], y["low"]) == ({"kind": "y"}, 1, None)
    test = stats.ttest_rel([2, 6, 3], [1, 4, 0])
    assert x["p_value"] == pytest.approx(test.pvalue)
    assert (x["low"], x["high"]) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert found["unmatched"] == [1, 1]
    assert "1 rows of" in printed(capsys, *args)
    assert x["test"] == y["test"] == "paired"


KEYED = "kind,seed,score,key"
PRIVATE = "kind,seed,score,epsilon_rdp,privacy_unit"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # Keys of their own, and one table of another time.
        ((KEYED, "own 1"), (KEYED, "own 2")),
        ((KEYED, "own 1"), (KEYED, "seed")),
        # Private rows that say nothing of their keys.
        ((PRIVATE, "2.0,client"), (PRIVATE, "2.0,client")),
        (("kind,seed,score,epsilon", "1.5"), (KEYED, "seed")),
    ],
)
def test_runs_with_keys_of_their_own_are_independent(capsys, tmp_path, first, second):
    """Welch's interval, of all runs: a seed in common means nothing to them."""
    sides = [1.0, 4.0, 0.5], [2.0, 6.0, 3.0, 9.0]
    paths = [
        write(
            tmp_path,
            f"{name}.csv",
            *(f"x,{seed},{score},{more}" for seed, score in enumerate(scores)),
            header=header,
        )
        for name, scores, (header, more) in zip(
            "ab", sides, (first, second), strict=True
        )
    ]
    args = ["compare", *paths, "--metric", "score"]
    found = json.loads(printed(capsys, *args, "--json"))
    (x,) = found["groups"]
    test = stats.ttest_ind(sides[1], sides[0], equal_var=False)
    assert x["p_value"] == pytest.approx(test.pvalue)
    assert (x["low"], x["high"]) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert x["difference"] == pytest.approx(5.0 - 5.5 / 3)
    assert (x["test"], x["pairs"]) == ("Welch", None)
    assert (x["first_runs"], x["second_runs"], found["unmatched"]) == (3, 4, [0, 0])
    assert "independent runs" in printed(capsys, *args)


def test_rows_that_share_a_key_of_their_own_are_pairs(capsys, tmp_path):
    rows = [f"x,{seed},{score},own 1" for seed, score in enumerate((1, 4, 0))]
    again = [f"x,{seed},{score},own 1" for seed, score in enumerate((2, 6, 3))]
    a = write(tmp_path, "a.csv", *rows, header=KEYED)
    b = write(tmp_path, "b.csv", *again, "x,9,1,own 1", header=KEYED)
    args = ["compare", a, b, "--metric", "score", "--json"]
    found = json.loads(printed(capsys, *args))
    (x,) = found["groups"]
    assert (x["test"], x["pairs"], found["unmatched"]) == ("paired", 3, [0, 1])
    # Where no seed is in common, there are no pairs.
    c = write(tmp_path, "c.csv", "x,7,1,seed", "x,8,2,seed", header=KEYED)
    d = write(tmp_path, "d.csv", "x,5,1,seed", "x,6,4,seed", header=KEYED)
    found = json.loads(printed(capsys, "compare", c, d, "--metric", "score", "--json"))
    assert found["groups"][0]["test"] == "Welch"


def test_welch_by_hand_and_without_spread():
    # Variances 1 and 4 of 3 and 2 runs: standard error sqrt(1/3 + 4/2).
    found = compare.welch_test([1.0, 2.0, 3.0], [5.0, 5.0 + 8**0.5])
    error = (1 / 3 + 2.0) ** 0.5
    degrees = (1 / 3 + 2.0) ** 2 / ((1 / 3) ** 2 / 2 + 2.0**2)
    half = stats.t.ppf(0.975, degrees) * error
    assert found["high"] - found["difference"] == pytest.approx(half, rel=1e-6)
    same = compare.welch_test([0.5, 0.5], [0.75, 0.75])
    assert (same["low"], same["high"], same["p_value"]) == (0.25, 0.25, None)
    assert compare.welch_test([0.5], [0.75, 1.0])["low"] is None


@pytest.mark.parametrize("lost", ["nan", "inf", ""])
def test_compare_leaves_out_and_counts_runs_that_diverged(capsys, tmp_path, lost):
    a = write(tmp_path, "a.csv", "x,0,1", "x,1,4", "x,2,0")
    b = write(tmp_path, "b.csv", "x,0,2", f"x,1,{lost}", "x,2,3")
    for first, second in ((a, b), (b, a)):
        args = ["compare", first, second, "--metric", "score"]
        found = json.loads(printed(capsys, *args, "--json"))
        assert (found["groups"][0]["pairs"], found["without_value"]) == (2, 1)
        assert abs(found["groups"][0]["difference"]) == 2.0
        assert "1 rows or pairs lack a finite score" in printed(capsys, *args)
    none = write(tmp_path, "none.csv", *(f"x,{seed},{lost}" for seed in range(3)))
    args = ["compare", a, none, "--metric", "score"]
    assert "no pair of rows has a finite score" in refused(capsys, *args)


def test_compare_refuses(capsys, tmp_path):
    a = write(tmp_path, "a.csv", "x,0,1", "x,1,2")
    for rows, message in {
        ("y,0,1", "y,1,2"): "no row of one table has a partner",
        ("x,0,1",): "an interval needs at least two common seeds",
        ("x,0,1", "x,0,2"): "several rows of kind x, seed 0",
        ("x,0,", "x,1,inf"): "no pair of rows has a finite score",
        ("x,0,low",): "score must be a number, got 'low'",
    }.items():
        b = write(tmp_path, "b.csv", *rows)
        assert message in refused(capsys, "compare", a, b, "--metric", "score")
    unknown = refused(capsys, "compare", a, a, "--metric", "scoer")
    assert "did you mean 'score'" in unknown
    unseeded = refused(capsys, "compare", a, "bits_accuracy", "--metric", "accuracy")
    assert "has rows without a seed" in unseeded


def costs(capsys, **options):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    found = json.loads(printed(capsys, "cost", *flags, "--json"))
    return {row["protocol"]: row for row in found}


def test_cost_of_a_k_regular_graph_is_published(capsys):
    """Bell et al. 2020: 48 neighbours for 1,000 clients at a tenth dropped and corrupt.

    Bonawitz et al.'s closed form then has 49 who hold a share. A sum needs 26 bits.
    """
    found = costs(capsys, num_clients=1000, dimension=100_000, num_dropped=100)
    row = found["pairwise masking, k-regular"]
    key = share = 256
    bits = 2 * 49 * key + (5 * 49 - 4) * share + 100_000 * 26
    assert row["uplink_bytes"] + row["downlink_bytes"] == bits / 8
    sent = 2 * key + 2 * 48 * share + 100_000 * 26 + 49 * share
    assert row["uplink_bytes"] == sent / 8
    assert row["num_rounds"] == 4


def test_cost_of_light_secagg_is_published(capsys):
    """So et al. 2022: 100 clients, 70 stay, 50 collude, a million words of 32 bits."""
    options = {"num_clients": 100, "dimension": 10**6, "num_dropped": 30}
    row = costs(capsys, **options, corrupt_share=0.5)["LightSecAgg"]
    assert row["uplink_bytes"] == 19.8e6 + 4e6 + 0.2e6
    assert row["downlink_bytes"] == 19.8e6
    # The server relays pieces, and 70 clients upload.
    assert row["server_bytes"] == 2 * 100 * 19.8e6 + 70 * 4e6 + 70 * 0.2e6
    # 29 of 100, not 28, though 0.29 * 100 is below 29: pieces are a 41st.
    row = costs(capsys, **options, corrupt_share=0.29)["LightSecAgg"]
    piece = -(-(10**6) // 41)
    assert row["downlink_bytes"] == 99 * piece * 4


def test_cost_is_the_committed_one(capsys):
    """What the experiment's table says of 1,000 clients, all staying."""
    rows = costs(capsys, num_clients=1000, dimension=100_000)
    committed = {
        (r["source"], r["quantity"]): r["ours"]
        for r in tables.read(tables.find("secure_aggregation_cost"))
        if (r["clients"], r["dimension"], r["input_bits"]) == (1000, 100_000, 16)
    }
    names = ("uplink_bytes", "downlink_bytes", "server_bytes", "wan_seconds")
    # Additive sharing was priced before its shares were sent as seeds.
    for name in names:
        expected = committed["bonawitz_2017", name]
        assert rows["pairwise masking"][name] == pytest.approx(expected, rel=1e-5)
    assert rows["additive sharing"]["uplink_bytes"] == 100_000 * 26 / 8 + 2 * 32


def test_cost_says_what_is_impossible(capsys):
    args = ["cost", "--num-clients", "10", "--dimension", "5", "--num-dropped", "4"]
    text = printed(capsys, *args)
    assert "pairwise masking: num_dropped 4 leaves 6 of 10" in text
    assert "num_dropped must be" in refused(capsys, *args[:-1], "10")
    assert "num_parties" in refused(capsys, *args, "--num-servers", "1")
    wide = {"num_clients": 1000, "dimension": 10, "input_bits": 52}
    row = costs(capsys, **wide)["LightSecAgg"]
    assert "sum of 62 bits, more than F_(2^61-1) holds" in row["impossible"]
    assert row["uplink_bytes"] is None
    row = costs(capsys, **wide | {"input_bits": 24})["LightSecAgg"]
    # 34 bits need the larger field, whose elements take 8 bytes; pieces are a 900th.
    assert row["uplink_bytes"] == 8 * (10 + 999 + 1)
