"""Finds the raw files of a data set, or downloads them, and reads the idx format."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.client
import io
import math
import os
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich import console, progress

from ppml_lab.data import published
from ppml_lab.data.published import Source

TIMEOUT_SECONDS = 30
MOST_BYTES = 1 << 30
"""Most bytes of a download or a decompressed file: ten times the largest here."""
_CHUNK_BYTES = 1 << 16
_RECENT_NS = 2 * 10**9
_MOST_AXES = 32
_MOST_NAMED = 8
_IDX_DTYPES = {
    0x08: "u1",
    0x09: "i1",
    0x0B: ">i2",
    0x0C: ">i4",
    0x0D: ">f4",
    0x0E: ">f8",
}


def find(
    dataset: str, filenames: Sequence[str], *, sources: Mapping[str, Source]
) -> list[Path]:
    """Finds the files of a data set, in the order of `filenames`.

    Each file is looked for in `$PPML_LAB_DATA/<dataset>`, then in the cache
    (`$XDG_CACHE_HOME` or `~/.cache`, then `ppml_lab/<dataset>`), both with and without
    its `.gz` ending; otherwise it is downloaded into the cache. Its SHA-256 is checked
    either way, once as long as its size and time stay the same; the SHA-256 of the
    decompressed content is accepted, too.

    Args:
      dataset: Name of the folder.
      filenames: The files wanted.
      sources: Where to download files; files without a source are only looked for.

    Raises:
      FileNotFoundError: If files are missing and could not be downloaded; says where to
        put them.
      ValueError: If a download, which is then not kept, or a file on disk has another
        SHA-256.
    """
    paths = {}
    try:
        for name in filenames:
            here = locate(dataset, name)
            if here is not None and name in sources:
                check_published(here, sources[name])
            paths[name] = here or _download(dataset, name, sources)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # It is the response, and holds the connection.
        raise FileNotFoundError(
            _how_to_get(
                dataset, missing(dataset, filenames), sources, reason=str(error)
            )
        ) from None
    return list(paths.values())


def locate(dataset: str, filename: str) -> Path | None:
    """The file in `$PPML_LAB_DATA` or the cache, or None; never downloads."""
    for folder in folders(dataset):
        for name in (filename, filename.removesuffix(".gz")):
            if (folder / name).is_file():
                return folder / name
    return None


def check_published(path: Path, source: Source) -> None:
    """Raises ValueError, naming the file, unless it is the published one, zipped or
    not.

    Where no SHA-256 of the file is published (for a plain file, of the content), this
    only checks that the file is none of the other known files.
    """
    is_plain = source.url.endswith(".gz") and path.suffix != ".gz"
    wanted = source.content if is_plain else source.sha256
    found = sha256(path)
    if found == wanted:
        return
    inside = "" if is_plain or (wanted and not source.content) else _content(path)
    if source.content and inside == source.content:
        return
    other = published.whose(found) or published.whose(inside)
    if other is not None:
        raise ValueError(
            f"{path} is {other} (SHA-256 {found})"
            + (f", and not {source.url} (SHA-256 {wanted})" if wanted else "")
            + "; move it into that data set's folder, and put the right file here"
        )
    if wanted:
        raise ValueError(
            f"{path} is not the file that {source.url} publishes: its SHA-256 is "
            f"{found}, not {wanted}; delete the file to fetch it again, or load your "
            "own data with data.federate"
        )


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex; cached while the file does not change."""
    return _digest(path, unzipped=False)


def _content(path: Path) -> str:
    """The SHA-256 of a gzipped file's content; "" where it cannot be read."""
    return _digest(path, unzipped=True)


def _digest(path: Path, *, unzipped: bool) -> str:
    """The SHA-256 of a file, or of its content unzipped; "" where it cannot be read."""
    about = path.stat()
    # A file may change twice within the resolution of its time stamps.
    recent = time.time_ns() - about.st_ctime_ns < _RECENT_NS
    stamp = (about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    read = _read_digest.__wrapped__ if recent else _read_digest
    return read(path, stamp, unzipped=unzipped)


@functools.lru_cache(maxsize=256)
def _read_digest(path: Path, stamp: tuple[int, ...], *, unzipped: bool) -> str:
    del stamp
    found, total = hashlib.sha256(), 0
    try:
        with gzip.open(path) if unzipped else path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                total += len(chunk)
                if unzipped and total > MOST_BYTES:
                    return ""
                found.update(chunk)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return ""
    return found.hexdigest()


def missing(dataset: str, filenames: Iterable[str]) -> list[str]:
    """The files that `locate` does not find."""
    return [name for name in filenames if locate(dataset, name) is None]


def folders(dataset: str) -> list[Path]:
    """The folders searched for files: the user's own, if set, and then the cache."""
    given = os.environ.get("PPML_LAB_DATA")
    own = [Path(given).expanduser() / dataset] if given else []
    return [*own, cache() / dataset]


def cache() -> Path:
    """The folder of downloads: `$XDG_CACHE_HOME` or `~/.cache`, then `ppml_lab`."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "ppml_lab"


def read_idx(path: Path) -> np.ndarray:
    """Reads an array in the idx format of MNIST, gzipped or plain, in native byte
    order.

    No more is read, or decompressed, than the header says.

    Raises:
      ValueError: If the file is truncated, too long, too large or not idx; names it.
    """
    with path.open("rb") as file:
        is_zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not is_zipped:
            return _parsed(path, file)
        try:
            with gzip.GzipFile(fileobj=file) as unzipped:
                return _parsed(path, unzipped)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise damaged(path, f"broken gzip data ({error})") from error


def _parsed(path: Path, file: io.BufferedIOBase) -> np.ndarray:
    magic = file.read(4)
    if magic[:2] != b"\0\0":
        file.read(_CHUNK_BYTES)  # Zipped data that are broken say so first.
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_DTYPES:
        raise damaged(path, f"not an idx file, it begins with {magic.hex(' ')}")
    dtype, num_axes = np.dtype(_IDX_DTYPES[magic[2]]), magic[3]
    if num_axes > _MOST_AXES:
        raise damaged(path, f"{num_axes} axes are more than {_MOST_AXES}")
    start = 4 + 4 * num_axes
    axes = file.read(4 * num_axes)
    if len(axes) < 4 * num_axes:
        raise damaged(path, f"the header needs {start} bytes, got {4 + len(axes)}")
    shape = np.frombuffer(axes, ">u4").tolist()
    size = math.prod(shape) * dtype.itemsize
    if size > MOST_BYTES:
        raise damaged(
            path, f"shape {shape} needs {start + size} bytes, more than {MOST_BYTES}"
        )
    content = file.read(size)
    # gzip checks the end of the data only when it is read.
    more = len(file.read(1))
    if len(content) != size or more:
        have = f"{start + len(content) + more}{' or more' * more}"
        raise damaged(path, f"shape {shape} needs {start + size} bytes, got {have}")
    values = np.frombuffer(content, dtype).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def damaged(path: Path, problem: str) -> ValueError:
    """The error for a file with unexpected content."""
    return ValueError(f"{path}: {problem}; delete the file and fetch it again")


def _download(dataset: str, filename: str, sources: Mapping[str, Source]) -> Path:
    source = sources.get(filename)
    if source is None or not source.sha256:
        raise FileNotFoundError(f"no download is known for {filename}")
    folder = cache() / dataset
    folder.mkdir(parents=True, exist_ok=True)
    # A file of this name is always whole: it is renamed into place once checked.
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        part = Path(scratch) / filename
        got = _fetch(source.url, part)
        if got != source.sha256:
            raise ValueError(
                f"{source.url}: expected SHA-256 {source.sha256}, got {got} "
                f"({part.stat().st_size} bytes); not kept. Try again, or put the right "
                f"file into {folder}"
            )
        os.replace(part, folder / filename)
    return folder / filename


def _fetch(url: str, path: Path) -> str:
    """Writes the content of `url` to `path`; returns its SHA-256."""
    digest = hashlib.sha256()
    bar = progress.Progress(console=console.Console(stderr=True), transient=True)
    with (
        urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response,
        path.open("wb") as file,
        bar,
    ):
        length, got = _length(response.headers.get("Content-Length")), 0
        task = bar.add_task(path.name, total=length)
        while chunk := response.read(_CHUNK_BYTES):
            got += len(chunk)
            if got > MOST_BYTES:
                raise http.client.HTTPException(
                    f"the server sent more than {MOST_BYTES} bytes"
                )
            digest.update(chunk)
            file.write(chunk)
            bar.advance(task, len(chunk))
    if length is not None and got != length:
        raise http.client.HTTPException(f"the server sent {got} of {length} bytes")
    return digest.hexdigest()


def _length(header: str | None) -> int | None:
    """The number of bytes that a server announces; None without an announcement.

    Raises:
      http.client.HTTPException: If the header is no number, or too large.
    """
    if header is None:
        return None
    if not (header.isascii() and header.isdigit()) or len(header) > 18:
        raise http.client.HTTPException(f"Content-Length is {header[:40]!r}")
    if int(header) > MOST_BYTES:
        raise http.client.HTTPException(
            f"Content-Length is {header}, more than {MOST_BYTES} bytes"
        )
    return int(header)


def _how_to_get(
    dataset: str, absent: list[str], sources: Mapping[str, Source], reason: str
) -> str:
    unset = "" if os.environ.get("PPML_LAB_DATA") else " (PPML_LAB_DATA is not set)"
    own = folders(dataset)[0] if not unset else f"$PPML_LAB_DATA/{dataset}{unset}"
    return "\n".join(
        [
            f"{dataset}: files are missing and were not downloaded ({reason}).",
            "Put them into",
            f"  {own}",
            f"  or {cache() / dataset}",
            "Missing, with their official source:",
            *(
                f"  {name}  {sources[name].url if name in sources else '(none known)'}"
                for name in absent[:_MOST_NAMED]
            ),
            *(
                [f"  and {len(absent) - _MOST_NAMED} more"]
                if len(absent) > _MOST_NAMED
                else []
            ),
        ]
    )
