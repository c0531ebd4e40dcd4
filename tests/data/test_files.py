"""Finding, downloading and reading raw files, against a real local HTTP server."""

import gzip
import hashlib
import http.server
import struct
import threading

import numpy as np
import pytest

from ppml_lab.data import files

CONTENT = b"some bytes" * 20_000


class Server(http.server.ThreadingHTTPServer):
    """Serves `pages`; remembers what was asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages = {}
        self.requests = []
        self.length = ""  # "" for the page's own; None for none
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        assert isinstance(self.server, Server)
        self.server.requests.append(self.path)
        page = self.server.pages.get(self.path.removeprefix("/"))
        if page is None:
            self.send_error(404)
            return
        self.send_response(200)
        length = self.server.length
        if length is not None:
            self.send_header("Content-Length", length or str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def folders(monkeypatch, tmp_path):
    """($PPML_LAB_DATA, the cache), both empty."""
    own, cache = tmp_path / "own", tmp_path / "cache"
    monkeypatch.setenv("PPML_LAB_DATA", str(own))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    return own, cache / "ppml_lab"


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def source(server, name, content=CONTENT):
    return files.Source(server.url + name, hashlib.sha256(content).hexdigest())


def test_own_folder_comes_before_the_cache(folders):
    own, cache = folders
    in_cache = put(cache / "toy" / "a.gz", b"cache")
    assert files.find("toy", ["a.gz"], sources={}) == [in_cache]
    in_own = put(own / "toy" / "a.gz", b"own")
    assert files.find("toy", ["a.gz"], sources={}) == [in_own]


def test_plain_file_instead_of_gz(folders):
    plain = put(folders[1] / "toy" / "a", b"plain")
    assert files.locate("toy", "a.gz") == plain
    assert files.locate("toy", "b.gz") is None


def test_default_cache_is_in_the_home_folder(folders, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("PPML_LAB_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    path = put(tmp_path / ".cache" / "ppml_lab" / "toy" / "a", b"")
    assert files.locate("toy", "a") == path


def test_downloads_once_into_the_cache(folders, server):
    server.pages["a.gz"] = CONTENT
    sources = {"a.gz": source(server, "a.gz")}
    for _ in range(2):
        (path,) = files.find("toy", ["a.gz"], sources=sources)
        assert path == folders[1] / "toy" / "a.gz"
        assert path.read_bytes() == CONTENT
    assert server.requests == ["/a.gz"]
    assert list(path.parent.iterdir()) == [path]


def test_local_files_are_not_downloaded(folders, server):
    server.pages |= {"a": CONTENT, "b": CONTENT}
    put(folders[0] / "toy" / "a", CONTENT)
    sources = {name: source(server, name) for name in "ab"}
    first, second = files.find("toy", ["a", "b"], sources=sources)
    assert first == folders[0] / "toy" / "a"
    assert second.read_bytes() == CONTENT
    assert server.requests == ["/b"]


def test_wrong_checksum_leaves_nothing_behind(folders, server):
    server.pages["a"] = b"tampered"
    expected = source(server, "a")
    with pytest.raises(ValueError, match="expected SHA-256") as caught:
        files.find("toy", ["a"], sources={"a": expected})
    assert expected.sha256 in str(caught.value)
    assert hashlib.sha256(b"tampered").hexdigest() in str(caught.value)
    assert not [p for p in folders[1].rglob("*") if p.is_file()]
    assert list((folders[1] / "toy").iterdir()) == []
    server.pages["a"] = CONTENT
    assert files.find("toy", ["a"], sources={"a": expected})


def test_files_on_disk_that_are_others_are_refused(folders, server):
    zipped = gzip.compress(CONTENT)
    known = files.Source(
        server.url + "a.gz",
        hashlib.sha256(zipped).hexdigest(),
        hashlib.sha256(CONTENT).hexdigest(),
    )
    here = put(folders[0] / "toy" / "a.gz", zipped)
    assert files.find("toy", ["a.gz"], sources={"a.gz": known}) == [here]
    # Zipped by another program, and not at all.
    put(here, gzip.compress(CONTENT, compresslevel=1))
    assert files.find("toy", ["a.gz"], sources={"a.gz": known}) == [here]
    here.unlink()
    put(here.with_name("a"), CONTENT)
    assert files.find("toy", ["a.gz"], sources={"a.gz": known})
    put(here.with_name("a"), CONTENT[:-1] + b"?")
    with pytest.raises(ValueError, match=r"toy/a is not the file that .* publishes"):
        files.find("toy", ["a.gz"], sources={"a.gz": known})
    for other in (gzip.compress(CONTENT + b"?"), b"no gzip", zipped[:-9]):
        put(here, other)
        with pytest.raises(ValueError, match=r"a.gz is not the file that .* publishes"):
            files.find("toy", ["a.gz"], sources={"a.gz": known})
    assert server.requests == []


@pytest.mark.parametrize(
    ("length", "message"),
    [("abc", "Content-Length is 'abc'"), (str(2**40), "more than"), ("7", "of 7")],
)
def test_downloads_of_no_length_are_refused(folders, server, length, message):
    server.pages["a"] = b"bytes"
    server.length = length
    with pytest.raises(FileNotFoundError, match=message):
        files.find("toy", ["a"], sources={"a": source(server, "a")})
    assert not [p for p in folders[1].rglob("*") if p.is_file()]


def test_a_download_ends_at_its_bound(folders, server, monkeypatch):
    monkeypatch.setattr(files, "MOST_BYTES", 1000)
    server.pages["a"] = CONTENT
    server.length = None
    with pytest.raises(FileNotFoundError, match="the server sent more than 1000 bytes"):
        files.find("toy", ["a"], sources={"a": source(server, "a")})


def test_zipped_files_are_read_no_further_than_their_header_says(tmp_path):
    # A header of 6 bytes, and a thousand times as much behind it.
    bomb = put(tmp_path / "a.gz", gzip.compress(GOOD + bytes(1 << 24)))
    with pytest.raises(ValueError, match="needs 18 bytes, got 19 or more"):
        files.read_idx(bomb)
    many = put(tmp_path / "b.gz", gzip.compress(b"\0\0\x08\xff" + bytes(1 << 12)))
    with pytest.raises(ValueError, match="255 axes are more than"):
        files.read_idx(many)


def check_message(error, folders, server, missing):
    text = str(error)
    assert str(folders[0] / "toy") in text
    assert str(folders[1] / "toy") in text
    for name in missing:
        assert server.url + name in text


def test_missing_on_the_server(folders, server):
    server.pages["a"] = CONTENT
    sources = {name: source(server, name) for name in "abc"}
    with pytest.raises(FileNotFoundError, match="404") as caught:
        files.find("toy", ["a", "b", "c"], sources=sources)
    check_message(caught.value, folders, server, ["b", "c"])
    assert server.url + "a" not in str(caught.value)
    assert [p.name for p in folders[1].rglob("*") if p.is_file()] == ["a"]


def test_offline(folders):
    with Server() as server:  # closed again: nobody listens on its port
        sources = {name: source(server, name) for name in "ab"}
    with pytest.raises(FileNotFoundError, match="refused") as caught:
        files.find("toy", ["a", "b"], sources=sources)
    check_message(caught.value, folders, server, ["a", "b"])


def test_no_source_and_no_folder(folders, monkeypatch):
    monkeypatch.delenv("PPML_LAB_DATA")
    with pytest.raises(FileNotFoundError) as caught:
        files.find("toy", ["a"], sources={})
    assert "PPML_LAB_DATA is not set" in str(caught.value)
    assert "no download is known for a" in str(caught.value)


def idx(array, code):
    """The bytes of `array` (big-endian already) as an idx file."""
    header = bytes([0, 0, code, array.ndim]) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    return header + array.tobytes()


IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("code", IDX_TYPES)
def test_reads_every_type(tmp_path, code, zipped):
    values = np.arange(100, 124).reshape(2, 3, 4)
    content = idx(values.astype(IDX_TYPES[code]), code)
    path = put(tmp_path / "a.gz", gzip.compress(content) if zipped else content)
    array = files.read_idx(path)
    np.testing.assert_array_equal(array, values)
    assert array.dtype == np.dtype(IDX_TYPES[code]).newbyteorder("=")
    assert array.dtype.isnative
    array[0] = 0  # writable, unlike a view of the file's bytes


GOOD = idx(np.arange(6, dtype="u1").reshape(2, 3), 0x08)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD[:-1], "needs 18 bytes, got 17"),
        (GOOD + b"x", "needs 18 bytes, got 19 or more"),
        (GOOD[:9], "header needs 12 bytes, got 9"),
        (b"", "not an idx file"),
        (b"<html>", "not an idx file, it begins with 3c 68 74 6d"),
        (b"\0\1" + GOOD[2:], "not an idx file"),
        (b"\0\0\x0a" + GOOD[3:], "not an idx file, it begins with 00 00 0a 02"),
        (gzip.compress(GOOD, mtime=0)[:-9], "broken gzip"),
        (gzip.compress(GOOD, mtime=0)[:-1] + b"!", "broken gzip"),
        (gzip.compress(GOOD, mtime=0)[:12] + b"\xff" * 12, "broken gzip"),
        (gzip.compress(GOOD[:-1], mtime=0), "needs 18 bytes, got 17"),
        (idx(np.zeros(0, "u1"), 8)[:4] + b"\xff" * 4, "needs 4294967303 bytes"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, message):
    path = put(tmp_path / "train.gz", content)
    with pytest.raises(ValueError, match=message) as caught:
        files.read_idx(path)
    assert str(path) in str(caught.value)
    assert "delete the file and fetch it again" in str(caught.value)
