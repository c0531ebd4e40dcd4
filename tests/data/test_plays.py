"""Shakespeare by role: real pages where the machine has them, made ones elsewhere."""

import io
import os
import tarfile

import numpy as np
import pytest

from ppml_lab import data
from ppml_lab.data import files, plays, published


@pytest.fixture(scope="module")
def real():
    """All speeches and the data set of them, or a skip: tests never download."""
    if not os.environ.get("PPML_LAB_DATA"):
        pytest.skip("PPML_LAB_DATA is not set, so the plays cannot be read")
    if files.locate("shakespeare", published.PLAYS_ARCHIVE) is None:
        pytest.skip("PPML_LAB_DATA has not an archive of the plays")
    said = plays.speeches()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plays, "speeches", lambda: said)
        return said, data.load("shakespeare")


def test_the_plays_have_the_speeches_that_were_counted(real):
    said, _ = real
    assert len(said) == 30_913
    assert sum(len(one.text) for one in said) == 4_289_213
    of_role = {}
    for one in said:
        of_role.setdefault((one.play, one.role), []).append(len(one.text))
    assert len(of_role) == 1_377
    assert len({one.play for one in said}) == 37
    several = [sizes for sizes in of_role.values() if len(sizes) >= 2]
    assert (len(several), sum(map(sum, several))) == (1_123, 4_252_770)
    characters = [sum(sizes) for sizes in of_role.values()]
    assert (min(characters), np.median(characters), max(characters)) == (3, 842, 60_990)
    counts = [len(sizes) for sizes in of_role.values()]
    assert (min(counts), np.median(counts), max(counts)) == (1, 7, 359)
    assert sum(size >= 1_000 for size in characters) == 635
    assert sum(size >= 2_000 for size in characters) == 446
    together = [one for one in said if " / " in one.role]
    assert (len({(o.play, o.role) for o in together}), len(together)) == (36, 50)
    assert set("".join(one.text for one in said)) == set(plays.CHARACTERS)
    assert len(plays.CHARACTERS) == 76
    first = said[next(i for i, one in enumerate(said) if one.play == "hamlet")]
    assert (first.role, first.text) == ("BERNARDO", "Who's there?")


def test_each_token_of_the_plays_is_predicted_once(real):
    _, dataset = real
    both = (dataset.train, dataset.test)
    for part in both:
        assert part["x"].dtype == part["y"].dtype == np.int32
        assert part["weights"].dtype == np.float32
        assert part["x"].shape == part["y"].shape == part["weights"].shape
        assert part["x"].shape[1] == 80
        np.testing.assert_array_equal(part["weights"], part["y"] != 0)
        # A row goes on where the one before ends.
        np.testing.assert_array_equal(part["x"][:, 1:], part["y"][:, :-1])
        assert part["y"].max() < dataset.num_classes == 80
        assert not (part["x"] == plays.UNKNOWN).any()
    # All characters, and the end of each speech.
    assert sum(part["weights"].sum(dtype=float) for part in both) == 4_289_213 + 30_913
    assert sum((part["x"] == plays.START).sum() for part in both) == 30_913
    assert [len(part["y"]) for part in both] == [55_499, 15_235]


def test_roles_are_clients_and_their_test_rows_line_up(real):
    _, dataset = real
    train = data.federate(dataset.train["y"], dataset.train_users)
    test = data.federate(
        dataset.test["y"], dataset.test_users, users=np.unique(dataset.train_users)
    )
    assert data.num_clients(train) == data.num_clients(test) == 1_377
    assert (data.client_sizes(test) == 0).sum() == 1_377 - 1_123
    with pytest.raises(ValueError, match=r"254 users .* that are not in users"):
        data.federate(
            dataset.train["y"],
            dataset.train_users,
            users=np.unique(dataset.test_users),
        )


def test_users_are_roles_and_test_is_what_they_say_later(real):
    said, dataset = real
    assert len(np.unique(dataset.train_users)) == 1_377
    assert len(np.unique(dataset.test_users)) == 1_123
    assert set(dataset.test_users) <= set(dataset.train_users)
    own = [one.text for one in said if (one.play, one.role) == ("hamlet", "HAMLET")]
    assert len(own) == 359
    for part, users, texts in [
        (dataset.train, dataset.train_users, own[:287]),
        (dataset.test, dataset.test_users, own[287:]),
    ]:
        mine = part["y"][users == "hamlet: HAMLET"]
        mine = mine[mine != plays.PADDING]
        assert plays.decoded(mine) == "".join(texts)


PAGE = """\
<H3>ACT I</h3>
<blockquote><A NAME=1.0.1>Two houses, alike.</A><br></blockquote>
<A NAME=speech1><b>ANN</b></a>
<blockquote>
<A NAME=1.1.1>  Who's   there?</A><br>
<p><i>Enter BOB</i></p>
<A NAME=1.1.2>Ho!</A><br>
</blockquote>
<A NAME=speech2><b>ANN</b></a>
<A NAME=speech3><b>BOB &amp; CO</b></a>
<blockquote><A NAME=1.1.3>We are.</A><br></blockquote>
<h3>SCENE II. A room.</h3>
<blockquote><A NAME=1.2.1>with a bed in it.</A><br></blockquote>
<A NAME=speech1><b>ANN</b></a>
<blockquote><A NAME=1.2.2>[Aside] \xe9</A><br></blockquote>
"""


@pytest.fixture
def made(monkeypatch, tmp_path):
    """A folder with a play of three speeches as the only one."""
    monkeypatch.setattr(published, "PLAYS", ("toy",))
    page = {"toy/full.html": published.Source("http://toy/full.html", "")}
    monkeypatch.setattr(published, "FILES", {"shakespeare": published.Files(page, {})})
    monkeypatch.setattr(plays, "_COUNTS", (3, 2, 32))
    monkeypatch.setenv("PPML_LAB_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "shakespeare"


def put(folder):
    (folder / "toy").mkdir(parents=True)
    (folder / "toy" / "full.html").write_text(PAGE, encoding="iso-8859-1")


def pack(folder, *names):
    folder.mkdir()
    with tarfile.open(folder / published.PLAYS_ARCHIVE, "w:xz") as archive:
        for name in names:
            info = tarfile.TarInfo(f"html/{name}.html")
            info.size = len(PAGE)
            archive.addfile(info, io.BytesIO(PAGE.encode("iso-8859-1")))


@pytest.mark.parametrize("how", [put, lambda folder: pack(folder, "toy")])
def test_a_page_and_an_archive_are_read_alike(made, how):
    how(made)
    assert plays.speeches() == [
        ("toy", "ANN", "Who's there?\nHo!"),
        ("toy", "ANN / BOB &amp; CO", "We are."),
        ("toy", "ANN", "[Aside] \xe9"),
    ]
    rows = data.shakespeare(sequence_length=10)
    assert rows.train_users is not None
    assert rows.test_users is not None
    # Of two speeches of a role the first is train; who speaks once is in train alone.
    assert rows.train_users.tolist() == ["toy: ANN"] * 2 + ["toy: ANN / BOB &amp; CO"]
    assert rows.test_users.tolist() == ["toy: ANN"]
    assert plays.decoded(rows.train["x"][0]) == "Who's the"
    assert rows.train["x"][0, 0] == plays.START
    assert plays.decoded(rows.train["y"][1]) == "e?\nHo!"
    assert rows.test["y"][0].tolist() == [
        *plays.encoded("[Aside] "), plays.UNKNOWN, plays.END,
    ]  # fmt: skip
    alone = data.shakespeare(sequence_length=10, least_speeches=2)
    assert np.unique(np.asarray(alone.train_users)).tolist() == ["toy: ANN"]
    with pytest.raises(ValueError, match="least_speeches 9 leaves out every role"):
        data.shakespeare(least_speeches=9)


def test_other_pages_are_refused(made, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"toy/full.html  http://toy/full.html"):
        data.load("shakespeare")
    pack(made, "toy", "other")
    with pytest.raises(ValueError, match=r"1 plays, got 2; .*\['other'\]"):
        data.load("shakespeare")
    (made / published.PLAYS_ARCHIVE).write_bytes(b"no archive")
    with pytest.raises(ValueError, match="not an archive of the plays"):
        data.load("shakespeare")
    (made / published.PLAYS_ARCHIVE).unlink()
    put(made)
    monkeypatch.setattr(plays, "_COUNTS", (3, 2, 37))
    with pytest.raises(ValueError, match="with 37 characters, got 3 of 2 with 32"):
        data.load("shakespeare")


def test_a_speech_fills_rows_to_the_last_token():
    # START and 9 characters are read, 9 characters and END predicted.
    x, y = plays.in_rows("abcdefghi", 10)
    assert x.shape == y.shape == (1, 10)
    assert plays.decoded(x[0]) == plays.decoded(y[0]) == "abcdefghi"
    assert (x[0, 0], y[0, -1]) == (plays.START, plays.END)
    x, y = plays.in_rows("abcdefghij", 10)
    assert [plays.decoded(row) for row in x] == ["abcdefghi", "j"]
    assert [plays.decoded(row) for row in y] == ["abcdefghij", ""]
    assert y[1].tolist() == [plays.END] + [plays.PADDING] * 9
