"""Shakespeare's plays by speaking role: prediction of a speech's next character."""

from __future__ import annotations

import lzma
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ppml_lab import arguments, checks
from ppml_lab.data import files, published
from ppml_lab.data.dataset import Dataset, of_rows

PADDING, START, END, UNKNOWN = range(4)
"""Tokens that are no characters: padding behind a speech's end, the start and the end
of a speech, and any character that the plays do not have."""
CHARACTERS = (
    "\n !$&',-.0123456789:;?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz"
)
"""All 76 characters that occur, in the order of their tokens, which begin at 4."""
NUM_TOKENS = 4 + len(CHARACTERS)

_TRAIN_SHARE = 0.8
# Longer than the longest speech; the speeches of Hamlet, who speaks most often.
_LONGEST, _MOST_SPEECHES = 1 << 14, 359
_COUNTS = (30_913, 1_377, 4_289_213)
_TABLE = np.full(256, UNKNOWN, np.int32)
_TABLE[np.frombuffer(CHARACTERS.encode(), np.uint8)] = np.arange(4, NUM_TOKENS)
# A heading, the anchor of a speaker's name, or that of a numbered line.
_PIECE = re.compile(
    r"(<h3>)|<a name=\"?(speech\d+|[\d.]+)\"?>(.*?)</a>", re.IGNORECASE | re.DOTALL
)
_TAG = re.compile(r"<[^>]*>")


class Speech(NamedTuple):
    """A speech: what a role says at once."""

    play: str
    """The play's name, such as "hamlet"."""
    role: str
    """The speaking role; roles that speak together are a role "A / B" of their own."""
    text: str
    """The lines, separated by line breaks."""


@arguments.checked
def shakespeare(*, sequence_length: int = 80, least_speeches: int = 1) -> Dataset:
    """Shakespeare's 37 plays, whose users are the roles: which character comes next?

    The plays are read from the HTML pages that MIT publishes: 30,913 speeches of 1,377
    roles with 4,289,213 characters. A role belongs to one play. Stage directions
    between lines, headings, prologues and epilogues without a speaker are left out;
    runs of blanks become one.

    A speech is its characters between `START` and `END`, cut into rows of
    `sequence_length` tokens; the last row is padded, as in Reddi et al.: "x" int32 `[n,
    length]`, "y" int32 `[n, length]` the token after each, and "weights" float32 `[n,
    length]`, 1 where y is a token and 0 where it is `PADDING`. Each token except
    `START` is predicted once. There are 80 tokens: the 76 characters that occur
    (`CHARACTERS`), and four that are no characters. Their number, `num_classes`,
    differs from that of Reddi et al. (90, for the characters of another edition).

    The first 80 % of a role's speeches in the order of the play are train (rounded
    down, at least one), the later ones test, so that roles with one speech are only in
    train.

    Caldas et al. LEAF: A Benchmark for Federated Settings. 2018. Reddi et al. Adaptive
    Federated Optimization. ICLR 2021.

    Args:
      sequence_length: Number of tokens of a row.
      least_speeches: Roles with fewer speeches are left out; LEAF's rule is 2, which
        leaves 1,123 of the 1,377.

    Raises:
      FileNotFoundError: If pages are missing; says where to put them.
      ValueError: If the pages are not those that MIT publishes.
    """
    checks.within("sequence_length", sequence_length, 1, _LONGEST)
    checks.within("least_speeches", least_speeches, 1, _MOST_SPEECHES)
    of_role: dict[str, list[str]] = {}
    for play, role, text in speeches():
        of_role.setdefault(f"{play}: {role}", []).append(text)
    parts: tuple[list, list] = ([], [])
    users: tuple[list, list] = ([], [])
    for role, texts in of_role.items():
        if len(texts) < least_speeches:
            continue
        first_test = max(1, int(_TRAIN_SHARE * len(texts)))
        for which, own in enumerate((texts[:first_test], texts[first_test:])):
            rows = [in_rows(text, sequence_length) for text in own]
            parts[which].extend(rows)
            users[which].extend([role] * sum(len(y) for _, y in rows))
    if not parts[1]:
        raise ValueError(
            f"least_speeches {least_speeches} leaves out every role; lower it"
        )
    train, test = map(examples, parts)
    return of_rows(
        "shakespeare",
        train,
        test,
        NUM_TOKENS,
        train_users=np.array(users[0]),
        test_users=np.array(users[1]),
        licence="public domain",
        citation="The MIT/Moby Shakespeare; the task: Caldas et al. LEAF. "
        "arXiv:1812.01097, 2018",
    )


def speeches() -> list[Speech]:
    """All speeches of all plays, in the order of reading, plays by name.

    Raises:
      FileNotFoundError: If pages are missing; says where to put them.
      ValueError: If the pages are not those that MIT publishes.
    """
    archive = files.locate("shakespeare", published.PLAYS_ARCHIVE)
    if archive is not None:
        pages, where = _unpacked(archive), archive
    else:
        known = published.FILES["shakespeare"].needed
        paths = files.find("shakespeare", list(known), sources=known)
        pages = {path.parent.name: path.read_bytes() for path in paths}
        where = paths[0].parent.parent
    found = [one for play in sorted(pages) for one in spoken(play, pages[play])]
    counts = (
        len(found),
        len({(one.play, one.role) for one in found}),
        sum(len(one.text) for one in found),
    )
    if counts != _COUNTS:
        raise ValueError(
            f"{where}: the plays must have {_COUNTS[0]} speeches of {_COUNTS[1]} roles "
            f"with {_COUNTS[2]} characters, got {counts[0]} of {counts[1]} with "
            f"{counts[2]}; put MIT's published pages there"
        )
    return found


def spoken(play: str, page: bytes) -> list[Speech]:
    """The speeches of a play's page, in HTML as MIT publishes it.

    A speaker's name is an anchor `speech1` and so on, a line is an anchor such as
    `1.1.20`. Names that follow each other speak together; after a heading nobody
    speaks.
    """
    found: list[tuple[str, list[str]]] = []
    names: list[str] = []
    lines: list[str] | None = None
    for heading, anchor, content in _PIECE.findall(page.decode("iso-8859-1")):
        text = " ".join(_TAG.sub("", content).split())
        if heading:
            names, lines = [], None
        elif anchor.startswith("speech"):
            names = [text] if lines is not None else [*names, text]
            lines = None
        elif names:
            if lines is None:
                lines = []
                found.append((" / ".join(names), lines))
            lines.append(text)
    return [Speech(play, role, "\n".join(said)) for role, said in found]


def encoded(text: str) -> np.ndarray:
    """The tokens of a text, int32 `[characters]`."""
    return _TABLE[np.frombuffer(text.encode("iso-8859-1", "replace"), np.uint8)]


def decoded(tokens: Sequence[int] | np.ndarray) -> str:
    """The characters of tokens; tokens that are no characters are left out."""
    return "".join(CHARACTERS[token - 4] for token in tokens if token >= 4)


def in_rows(text: str, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The tokens x of a text between `START` and `END`, and the tokens y after them,
    each `[n, length]`; the last row is padded.
    """
    tokens = np.concatenate([[START], encoded(text), [END]])
    count = -(-(len(tokens) - 1) // length)
    padded = np.full(count * length + 1, PADDING, np.int32)
    padded[: len(tokens)] = tokens
    return padded[:-1].reshape(count, length), padded[1:].reshape(count, length)


def _unpacked(path: Path) -> dict[str, bytes]:
    """The pages of an archive, by play; nothing is unpacked onto the disk."""
    pages = {}
    try:
        with tarfile.open(path, "r:xz") as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None and member.name.endswith(".html"):
                    pages[Path(member.name).stem] = file.read(files.MOST_BYTES)
    except (tarfile.TarError, OSError, EOFError, lzma.LZMAError) as error:
        raise files.damaged(path, f"not an archive of the plays ({error})") from error
    if unlike := sorted(set(published.PLAYS) ^ set(pages)):
        raise files.damaged(
            path,
            f"must have a page of each of {len(published.PLAYS)} plays, got "
            f"{len(pages)}; pages that are missing or unknown: {unlike[:5]}",
        )
    return pages


def examples(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """Makes rows of several texts into examples of `models.sequence`, in which padding
    has weight 0.
    """
    x, y = map(np.concatenate, zip(*rows, strict=True))
    return {"x": x, "y": y, "weights": (y != PADDING).astype(np.float32)}
