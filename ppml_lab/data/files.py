"""Finds the raw files of a data set, or downloads them, and reads the idx format."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import math
import os
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich import console, progress

TIMEOUT_SECONDS = 30
_CHUNK_BYTES = 1 << 16
_IDX_DTYPES = {
    0x08: "u1",
    0x09: "i1",
    0x0B: ">i2",
    0x0C: ">i4",
    0x0D: ">f4",
    0x0E: ">f8",
}


class Source(NamedTuple):
    """Where a file is published, and the SHA-256 of its bytes in hex."""

    url: str
    sha256: str


def find(
    dataset: str, filenames: Sequence[str], *, sources: Mapping[str, Source]
) -> list[Path]:
    """The files of a data set, in the order asked for.

    Each is looked for in `$PPML_LAB_DATA/<dataset>`, then in the cache
    (`$XDG_CACHE_HOME` or `~/.cache`, then `ppml_lab/<dataset>`), both with and without
    its `.gz` ending; otherwise it is downloaded into the cache and its SHA-256 checked.

    Args:
      dataset: Name of the folder.
      filenames: The files wanted.
      sources: Where to download them; files without a source are only looked for.

    Raises:
      FileNotFoundError: Files are missing and could not be downloaded; says where to
        put them.
      ValueError: A download has another SHA-256; it is not kept.
    """
    paths = {}
    try:
        for name in filenames:
            paths[name] = locate(dataset, name) or _download(dataset, name, sources)
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


def missing(dataset: str, filenames: Iterable[str]) -> list[str]:
    """Those of the files that `locate` does not find."""
    return [name for name in filenames if locate(dataset, name) is None]


def folders(dataset: str) -> list[Path]:
    """Where files are looked for, in this order: the user's own folder, if there is
    one, and the cache.
    """
    given = os.environ.get("PPML_LAB_DATA")
    own = [Path(given).expanduser() / dataset] if given else []
    return [*own, cache() / dataset]


def cache() -> Path:
    """The folder of downloads: `$XDG_CACHE_HOME` or `~/.cache`, then `ppml_lab`."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "ppml_lab"


def read_idx(path: Path) -> np.ndarray:
    """An array in the idx format of MNIST, gzipped or plain, in native byte order.

    Raises:
      ValueError: The file is truncated, too long or not idx; names the file.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise _damaged(path, f"broken gzip data ({error})") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_DTYPES:
        raise _damaged(path, f"not an idx file, it begins with {content[:4].hex(' ')}")
    dtype, num_axes = np.dtype(_IDX_DTYPES[content[2]]), content[3]
    start = 4 + 4 * num_axes
    if len(content) < start:
        raise _damaged(path, f"the header needs {start} bytes, have {len(content)}")
    shape = np.frombuffer(content, ">u4", num_axes, offset=4).tolist()
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise _damaged(
            path, f"shape {shape} needs {expected} bytes, have {len(content)}"
        )
    values = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def _damaged(path: Path, problem: str) -> ValueError:
    return ValueError(f"{path}: {problem}; delete the file and fetch it again")


def _download(dataset: str, filename: str, sources: Mapping[str, Source]) -> Path:
    if filename not in sources:
        raise FileNotFoundError(f"no download is known for {filename}")
    source = sources[filename]
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
    """Writes what `url` serves to `path`; returns its SHA-256."""
    digest = hashlib.sha256()
    bar = progress.Progress(console=console.Console(stderr=True), transient=True)
    with (
        urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response,
        path.open("wb") as file,
        bar,
    ):
        length = response.headers.get("Content-Length")
        task = bar.add_task(path.name, total=int(length) if length else None)
        while chunk := response.read(_CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
            bar.advance(task, len(chunk))
    return digest.hexdigest()


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
                for name in absent
            ),
        ]
    )
