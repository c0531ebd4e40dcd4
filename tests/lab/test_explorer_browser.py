"""The explorer's page in a real browser, without a network: it counts as Python does.

Headless Chromium opens the page with the filters to try in its address (`#selftest=`);
the page sets them one after another, as a reader would, and writes what it then shows.
Whatever leaves the browser would meet a listener of ours, which stands for every proxy.
"""

from __future__ import annotations

import html
import json
import math
import random
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from ppml_lab.lab import explorer
from ppml_lab.lab.explorer import filters, page

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BROWSER is None,
        reason="no chromium, chromium-browser or google-chrome is installed: "
        "apt-get install chromium",
    ),
]
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-default-apps", "--disable-extensions"),
)
OF_THE_BROWSER = re.compile(r"\bgoogle(apis)?\.com\b|\bgvt1\.com\b|\bgstatic\.com\b")
"""Hosts that Chromium calls by itself, whatever page is open; no page names them."""
LONGEST = 120
"""Seconds after which a browser hangs."""


class Listener:
    """A proxy that leads nowhere and keeps the first line of what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    first = connection.recv(4096).partition(b"\r\n")[0].decode()
                except OSError:
                    first = "nothing"
                self.asked.append(first)

    def close(self) -> None:
        self._socket.close()


def opened(folder: Path, text: str, fragment: str = "") -> tuple[str, list[str], float]:
    """What a page is after its scripts ran, what left the browser, and seconds."""
    file = folder / "explorer.html"
    file.write_text(text, encoding="utf-8")
    listener = Listener()
    began = time.monotonic()
    try:
        done = subprocess.run(
            [
                str(BROWSER),
                *QUIET,
                f"--user-data-dir={folder / 'profile'}",
                f"--proxy-server=127.0.0.1:{listener.port}",
                "--proxy-bypass-list=<-loopback>",
                "--virtual-time-budget=60000",
                "--dump-dom",
                f"{file.as_uri()}{fragment}",
            ],
            capture_output=True,
            check=True,
            timeout=LONGEST,
            encoding="utf-8",
        )
    finally:
        listener.close()
    assert not OF_THE_BROWSER.search(text)
    asked = [line for line in listener.asked if not OF_THE_BROWSER.search(line)]
    return done.stdout, asked, time.monotonic() - began


def drawn(settings: list[explorer.Setting], count: int, seed: int) -> list[dict]:
    """Filters with a fixed seed, the first empty. Every second one has the values of a
    Pareto-optimal setting, which few others reach, or nobody where one limit is beyond
    them.
    """
    rng = random.Random(seed)
    found: list[Any] = [filters.facts(one) for one in settings]
    best = sorted(filters.pareto(settings, range(len(settings))))
    names = [each.name for each in filters.FILTERS]
    chosen: list[dict] = [{}]
    while len(chosen) < count:
        is_tight = len(chosen) % 2 == 1
        of = rng.choice(best) if is_tight else rng.randrange(len(found))
        own: dict[str, Any] = {
            k: v for k, v in found[of].items() if v not in (None, math.inf)
        }
        some = names if is_tight else rng.sample(names, rng.randint(1, 3))
        one = {name: own[name] for name in names if name in own and name in some}
        limits = [name for name in one if isinstance(one[name], float)]
        if is_tight and len(chosen) % 4 == 1:
            name = rng.choice(limits)
            one[name] *= 1.02 if name in ("score", "clients") else 0.98
        chosen.append(one)
    return chosen


def compared(
    view: explorer.View, chosen: list[dict], text: str
) -> tuple[list[list[int]], dict]:
    """Asserts that a page showed for filters what Python computes; returns the places
    of settings that qualify, and what the page said.
    """
    (found,) = re.findall(r'<pre id="selftest" hidden="">(.*?)</pre>', text, re.DOTALL)
    said = json.loads(html.unescape(found))
    assert "error" not in said, said
    expected = [filters.qualifying(view.settings, one) for one in chosen]
    for one, places, shown in zip(chosen, expected, said["found"], strict=True):
        assert shown["chosen"] == one
        assert shown["qualifying"] == places
        verb = "qualifies" if len(places) == 1 else "qualify"
        words = f"{len(places):,} of {len(view.settings):,} settings {verb}, "
        best = filters.pareto(view.settings, places)
        assert shown["said"].startswith(f"{words}{len(best)} Pareto-optimal.")
        assert shown["pareto"] == sorted(best)
        assert shown["rows"] == max(len(places), 1)  # else the nearest alone
        near = None if places else filters.nearest(view.settings, one)
        assert shown["nearest"] == near
        # Marks that are not pale: settings that qualify, and what promises nothing.
        promise = {i for i in shown["strong"] if view.settings[i].epsilon < math.inf}
        assert promise <= {*places}
    return expected, said


def test_counts_equal_those_of_python_and_nothing_leaves(tmp_path):
    view = explorer.committed()
    chosen = drawn(view.settings, 20, seed=27)
    fragment = "#selftest=" + urllib.parse.quote(json.dumps(chosen))
    text, asked, seconds = opened(tmp_path, page.html(view), fragment)
    print(f"started, opened the page and set 20 filters in {seconds:.1f} s")
    expected, said = compared(view, chosen, text)
    counts = [*map(len, expected)]
    assert sum(count <= 1 for count in counts) >= 5
    assert {0, 1} <= {*counts}
    assert len({*counts}) >= 8
    # Charts were drawn: the first filters are none, and four groups have charts.
    assert len(said["found"][0]["strong"]) > 100
    assert text.count("<svg") > 4
    assert 'class="vega-actions"' not in text
    assert said["resources"] == []
    assert asked == []
    assert seconds < LONGEST, f"{seconds:.1f} s in all; opening alone takes about 1"


def test_the_listener_hears_what_would_leave_and_the_policy_stops_it(tmp_path):
    """A planted picture is asked for without the page's policy, and not with it; the
    view has what no committed table has yet.
    """
    settings = explorer.committed().settings[::25]
    changes: list[dict[str, Any]] = [
        {"metric": "loss"},
        {"metric": "of my own"},
        {"is_projected": True},
        {"num_diverged": 1},
        {"dropout_prob": None, "num_clients": None},
        {"trust": "shuffler", "adversary": "server", "upload_bytes": 0.0},
    ]
    for i, changed in enumerate(changes):
        for k in range(i, len(settings), 8):
            settings[k] = settings[k]._replace(**changed)
    view = explorer.View.of_json(explorer.View(settings, []).to_json())
    chosen = drawn(view.settings, 12, seed=3)
    fragment = "#selftest=" + urllib.parse.quote(json.dumps(chosen))
    planted = '<img src="http://planted.example/x.png" alt="">'
    text = page.html(view, extra=planted)

    shown, asked, _ = opened(tmp_path, text, fragment)
    expected, said = compared(view, chosen, shown)
    assert any(expected)
    assert said["resources"] == ["http://planted.example/x.png"]  # and was stopped
    assert asked == []

    without = re.sub(r"<meta http-equiv[^>]*>", "", text)
    _, asked, _ = opened(tmp_path, without)
    assert any("planted.example" in line for line in asked)
