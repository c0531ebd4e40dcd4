"""What does secure aggregation cost, ours beside the published tables?

Claims to check: bytes, degrees and thresholds are the published ones, except for a
server that lies: here clients also hold a share of their own secrets, which the paper
does not count, so that its threshold would open both secrets. Times have the published
shape: as soon as a client drops out, the server of the complete graph takes tens of
times as long, in proportion to dropped times clients times entries, while a client's
time is linear in the number of clients.

Bytes, rounds, expansions (a client's traffic over its bare input) and seconds on LAN
and WAN are `smpc.cost`'s closed forms without dropouts. In additive sharing all shares
except one are seeds, and pieces of LightSecAgg go through the server, as shares do in
Bonawitz et al. Published expansions and LightSecAgg's bytes are values of the papers'
own formulas. For a graph with k neighbours the published formula takes k, but k + 1
clients hold shares: our numbers are 7 x 256 bits larger.

Times are the emulation's, on one device, after a check that the server finds the sum. A
client agrees on keys, adds all its masks and shares two secrets; it encrypts nothing.
The server opens secrets (`opening`), which here includes computing the shares that
clients would have sent; then it removes masks, 1,024 entries at a time, and adds
uploads. Published CPU times are of another machine and one thread of Java: only ratios
between rows are comparable (`server_cpu_times_no_dropouts`), and our masks and keys
(threefry, 61 bits) are cheaper than the published ones. `dropout` is the share of
clients that vanish, all after sharing their keys; in rows without times it is the share
that a graph is made for. The timed graph is made for 20%. Times found in the folder are
not measured again. `paper` takes about 5 minutes on 2 idle cores, `smoke` 15 seconds.

    python -m experiments.secure_aggregation_cost smoke
    python -m experiments.secure_aggregation_cost paper
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import bench
from ppml_lab import random
from ppml_lab.lab.disk import records
from ppml_lab.smpc import cost, dropouts, graphs, mask_keys, masking, operations, shamir
from ppml_lab.smpc.field import F61
from ppml_lab.smpc.network import LAN, WAN
from ppml_lab.smpc.ring import Z32, Wide


@dataclass(frozen=True)
class Experiment:
    """The timed protocols; closed forms are always in the table."""

    clients: tuple[int, ...] = (20,)
    """Numbers of clients in the complete graph."""
    dropouts: tuple[int, ...] = (0, 10, 30)
    """Percentages of these clients that drop out."""
    regular_clients: int = 30
    """Number of clients in the k-regular graph, made for 20% dropouts."""
    regular_dropouts: tuple[int, ...] = (0, 10, 20)
    """Percentages of these clients that drop out."""
    corrupt: float = 0.0
    """Share of corrupt clients that the k-regular graph is made for."""
    entries: int = 2048
    """Entries of a client's vector."""
    repetitions: int = 2
    """Turns in which everything runs once."""


CONFIGS = {
    "smoke": Experiment(),
    "paper": Experiment(
        clients=(500, 1000),
        regular_clients=1000,
        corrupt=0.2,
        entries=100_000,
        repetitions=3,
    ),
}
PAGE = {
    "minutes": {"paper": 5},
    "tables": [
        {
            "title": "neighbours that Bell et al.'s graph needs",
            "where": {"quantity": "degree"},
            "by": ["detail", "corrupt", "dropout", "clients"],
            "of": ["ours", "published"],
        },
        {
            "title": "a client's bytes over its bare input's",
            "where": {"quantity": "expansion", "clients": [100, 1000, 10_000]},
            "by": ["source", "clients", "dimension"],
            "of": ["ours", "published"],
        },
        {
            "title": "CPU milliseconds",
            "where": {
                "quantity": ["server_cpu_milliseconds", "client_cpu_milliseconds"]
            },
            "by": ["quantity", "source", "clients", "dropout"],
            "of": {"ours": ["low", "high"], "published": []},
        },
    ],
}

EXPLORED = "It prices protocols for many sizes: nothing is trained."
PRICED = [
    {
        "by": ["source", "quantity", "clients", "dimension"],
        "of": ["ours"],
        "where": {
            "quantity": ["expansion", "num_rounds", "wan_seconds"],
            "clients": [100, 1000, 10_000],
            "dimension": 100_000,
        },
    },
    {
        "by": ["source", "quantity", "clients", "dropout"],
        "of": ["ours"],
        "where": {"quantity": ["server_cpu_milliseconds", "client_cpu_milliseconds"]},
    },
]
BONAWITZ, BELL, LIGHT = "bonawitz_2017", "bell_2020", "lightsecagg_2022"
COLUMNS = ("source", "quantity", "detail", "clients", "dimension", "input_bits")
COLUMNS += ("word_bits", "dropout", "corrupt", "degree", "threshold", "ours")
COLUMNS += ("published", "low", "high", "repetitions")
RATES = ((0, 0.1), (0.05, 0.1), (0.1, 0.1), (0.2, 0.1), (0.2, 0.2), (0.2, 0.3))
RATES += ((0.33, 0.33),)  # corrupt, dropouts
DEGREES = {  # and thresholds, by clients and by RATES
    100: ((12, 2), (16, 6), (22, 11), (32, 21), (40, 21), (48, 21), (68, 34)),
    1000: ((18, 2), (36, 19), (48, 27), (68, 44), (98, 54), (140, 67), (286, 150)),
    10_000: ((20, 2), (42, 22), (54, 31), (80, 51), (122, 67), (182, 87), (422, 221)),
    100_000: (None,) * 6 + ((480, 251),),
    1_000_000: (None,) * 6 + ((518, 270),),
}
EXPANSIONS = {  # by clients, dimension and whether the graph is complete
    **{(2**10, 2**20, True): 1.73, (2**14, 2**24, True): 1.98},
    **{(1000, 2**20, True): 1.7318, (1000, 2**20, False): 1.6354},
    **{(1000, 10**5, True): 2.744, (1000, 10**5, False): 1.734},
    **{(10**4, 10**5, True): 13.07, (10**4, 10**5, False): 2.01},
}
LIGHT_MB = {"coded_masks": 19.8, "masked_input": 4.0, "summed_masks": 0.2}
CLIENT_MS = {500: 849, 1000: 1699}  # 100,000 entries
SERVER_MS = {  # by percent of dropouts
    500: {0: 2018, 10: 62_239, 30: 143_389},
    1000: {0: 4887, 10: 180_875, 30: 413_767},
}
Row = dict[str, Any]


def row(source: str, quantity: str, ours: float, **others: Any) -> Row:
    first = {"source": source, "quantity": quantity, "ours": ours}
    return dict.fromkeys(COLUMNS) | first | others


def degrees() -> list[Row]:
    """Degrees and thresholds of k-regular graphs."""
    cases = {
        (n, *rates, False): known
        for n, found in DEGREES.items()
        for rates, known in zip(RATES, found, strict=True)
    }
    cases |= {(1000, 0.45, 0.45, False): (822, 417), (1000, 0.3, 0.3, True): (872, 584)}
    rows = []
    for (n, corrupt, dropout, lies), known in cases.items():
        found = graphs.k_regular(n, corrupt, dropout, semi_malicious=lies)
        about = {"detail": "semi-malicious" if lies else "semi-honest", "clients": n}
        about |= {"corrupt": corrupt, "dropout": dropout}
        degree, threshold = known or (None, None)
        rows.append(row(BELL, "degree", found.degree, **about, published=degree))
        ours = found.threshold
        rows.append(row(BELL, "threshold", ours, **about, published=threshold))
    return rows


def protocols(n: int, dimension: int) -> dict[str, tuple[int, cost.Messages, Row]]:
    """The bits of a word, messages and parameters of each protocol."""
    bits, few = cost.modulus_bits(n, 16), graphs.k_regular(n, 0.2, 0.2)
    clear = cost.Message("input", "client", "server", 16 * dimension, n, 1, 0)
    all_of, (_, k, t) = graphs.complete(n), few
    made_for = {"dropout": 0.2, "corrupt": 0.2, "degree": k, "threshold": t}
    complete = {"degree": n - 1, "threshold": all_of.threshold}
    coded, servers = (n, 7 * n // 10, n // 2), {"num_clients": n}
    return {
        "clear_sum": (16, (clear,), {}),
        "additive_sharing": (
            bits,
            cost.additive_sharing(3, dimension, bits, **servers),
            {},
        ),
        BONAWITZ: (bits, cost.bonawitz(all_of, dimension, bits), complete),
        BELL: (bits, cost.bonawitz(few, dimension, bits), made_for),
        LIGHT: (32, cost.light_secagg(*coded, dimension, 32), {"threshold": coded[1]}),
    }


def traffic() -> list[Row]:
    """Rows of expansions and, for some, bytes by message, rounds and seconds."""
    rows, whole = [], [*itertools.product((100, 1000, 10_000), (10**5, 10**6))]
    between = itertools.product((200, 500, 2000, 5000), (10**5, 10**6))
    for n, m in dict.fromkeys([*whole, *between, *(key[:2] for key in EXPANSIONS)]):
        for source, (bits, messages, about) in protocols(n, m).items():
            sizes = {"clients": n, "dimension": m, "input_bits": 16, "word_bits": bits}
            add = partial(row, source, **sizes, **about)
            known = EXPANSIONS.get((n, m, source == BONAWITZ))
            known = known if source in (BONAWITZ, BELL) else None
            ours = cost.expansion(messages, m, 16)
            rows.append(add("expansion", ours, published=known))
            if (n, m) not in whole:
                continue
            printed = LIGHT_MB if (source, n, m) == (LIGHT, 100, 10**6) else {}
            for way, parts in cost.by_message(messages).items():
                for name, size in parts.items():
                    known = printed.get(name, 0) * 1e6 if way == "sent" else 0
                    detail = {"detail": f"{name} {way}", "published": known or None}
                    rows.append(add("client_bytes", -(-size // 8), **detail))
            for name, value in cost.traffic(messages)._asdict().items():
                rows.append(add(name, value))
            for name, network in {"lan": LAN, "wan": WAN}.items():
                rows.append(add(f"{name}_seconds", cost.seconds(messages, network)))
    return rows


def client(graph: graphs.Graph, keys: Any, place: Any, values: Any) -> Any:
    """One client's upload, and its holders' shares of its two secrets."""
    n, _, threshold = graph
    everybody = jnp.ones(n, bool)
    mask = masking.client_mask(keys, graph, everybody, place, len(values))
    around = np.concatenate([np.zeros(1, np.int32), mask_keys.distances(graph)])
    points = ((place + around) % n).astype(jnp.uint32) + jnp.uint32(1)
    kinds = jnp.array([mask_keys.SELF_SEED, mask_keys.SECRET_KEY])
    streams = random.child(keys.share_seed, place, kinds)
    coefficients = jax.tree.map(
        lambda drawn, own, key: drawn.T.at[0].set(jnp.stack([own[place], key[place]])),
        F61.uniform(streams, threshold),
        keys.self_seeds,
        keys.secret_keys,
    )
    points = Wide(points, jnp.zeros_like(points))
    return Z32.add(values, mask), shamir.evaluate(F61, coefficients, points)


def remove(graph: graphs.Graph, opened: Any, alive: Any, uploads: Any) -> Any:
    """The sum of the uploads minus the remaining masks, as in `masking.run`."""
    length, block = uploads.shape[1], masking.CHUNK

    def masks(number: Any) -> Any:
        begin = number * (block // random.BLOCK)
        return masking.mask_of_sum(opened, graph, alive, block, begin)

    removed = jax.lax.map(masks, jnp.arange(-(-length // block))).reshape(-1)[:length]
    return Z32.subtract(Z32.sum_over(uploads, 0), removed)


def timed(function: Any, *given: Any) -> tuple[Any, np.ndarray]:
    """Calls a function; returns its result and wall and CPU milliseconds."""
    jax.block_until_ready(given)
    meter = bench.Meter()
    meter.start()
    found = jax.block_until_ready(function(*given))
    return found, np.array(meter.lap().milliseconds)


def programs(graph: graphs.Graph, entries: int) -> Any:
    """A function from percentage of dropouts to times; compiled, checked, and warmed
    up.
    """
    n, rng = graph.num_clients, np.random.default_rng(0)
    keys = jax.jit(lambda seed: mask_keys.setup(seed, graph))(jnp.array([20, 17], "u4"))
    opening = jax.jit(lambda keys, alive: mask_keys.unmask(keys, graph, alive))
    uploading, removing = (jax.jit(partial(f, graph)) for f in (client, remove))
    order = jnp.asarray(rng.permutation(n))
    uploads = jnp.asarray(rng.integers(2**32, size=(n, entries), dtype=np.uint32))

    def alive(percent: int) -> dropouts.Alive:
        here, stays = jnp.ones(n, bool), order >= n * percent // 100
        return dropouts.nested(here, here, stays, stays)

    def times(percent: int) -> Row:
        _, uploaded = timed(uploading, keys, jnp.int32(1), uploads[1])
        opened, first = timed(opening, keys, alive(percent))
        assert opened.completed
        _, second = timed(removing, opened, alive(percent), uploads)
        found = {"client": uploaded, "opening": first, "server": first + second}
        return {name: milliseconds.tolist() for name, milliseconds in found.items()}

    inputs, stays = uploads[:, : random.BLOCK], alive(10)
    everybody = jax.lax.map(
        lambda at: client(graph, keys, *at)[0], (jnp.arange(n), inputs)
    )
    sent, there = (
        jnp.where(stays.uploaded[:, None], x, 0) for x in (everybody, inputs)
    )
    total = removing(opening(keys, stays), stays, sent)
    np.testing.assert_array_equal(total, Z32.sum_over(there, 0))
    times(0)
    return times


def turns(
    folder: Path, graph: graphs.Graph, percents: tuple[int, ...], config: Experiment
) -> dict[int, list[Row]]:
    """Times by percentage of dropouts and by turn, measured or found in the folder."""
    ready = functools.cache(lambda: programs(graph, config.entries))
    found: dict[int, list[Row]] = {percent: [] for percent in percents}
    for turn, percent in itertools.product(range(config.repetitions), percents):
        about = {"graph": [*graph], "dropouts": percent, "entries": config.entries}
        found[percent].append(
            records.once(
                folder / "runs",
                about | {"turn": turn},
                lambda percent=percent: ready()(percent),
            )
        )
        server = found[percent][-1]["server"][0] / 1e3
        print(
            f"{turn + 1} {graph}, {percent}% drop out: server {server:.3g} s",
            flush=True,
        )
    return found


def times(folder: Path, config: Experiment) -> list[Row]:
    """Medians and ranges over the turns, beside the published CPU times."""
    few = graphs.k_regular(config.regular_clients, config.corrupt, 0.2)
    cases = {graphs.complete(n): config.dropouts for n in config.clients}
    rows = []
    for graph, percents in (cases | {few: config.regular_dropouts}).items():
        (n, k, threshold), found = graph, turns(folder, graph, percents, config)
        complete, same = k == n - 1, config.entries == 100_000
        theirs = SERVER_MS.get(n, {}) if complete and same else {}
        for percent, reports in found.items():
            add = partial(
                row, BONAWITZ if complete else BELL, clients=n, dropout=percent / 100,
                dimension=config.entries, word_bits=32, degree=k, threshold=threshold,
                corrupt=None if complete else config.corrupt,
            )  # fmt: skip
            known = {"server": theirs.get(percent)}
            known["client"] = CLIENT_MS.get(n) if theirs and percent == 0 else None
            columns: dict[str, tuple[Any, float | None]] = {}
            for name in reports[0]:
                wall, cpu = np.array([report[name] for report in reports]).T
                columns[f"{name}_milliseconds"] = wall, None
                columns[f"{name}_cpu_milliseconds"] = cpu, known.get(name)
            if 0 in found:
                server, alone = (
                    np.array([report["server"][1] for report in found[number]])
                    for number in (percent, 0)
                )
                ratio = theirs[percent] / theirs[0] if percent in theirs else None
                columns["server_cpu_times_no_dropouts"] = server / alone, ratio
            for name, (values, published) in columns.items():
                low, middle, high = np.percentile(values, (0, 50, 100))
                ends = {"low": low, "high": high, "repetitions": len(values)}
                rows.append(add(name, middle, published=published, **ends))
            work = operations.of_masked_sum(graph, config.entries, n * percent // 100)
            rows.append(add("server_mask_words", work.server.mask_words))
    return rows


def measure(folder: Path, config: Experiment) -> list[Row]:
    return degrees() + traffic() + times(folder, config)


if __name__ == "__main__":
    bench.run("secure_aggregation_cost", __doc__ or "", CONFIGS, measure)
