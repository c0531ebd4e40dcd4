"""What do few bits, and computing on shares at all, cost a trained model?

Claims to check: with enough fraction bits a model classifies on shares as in the clear;
with fewer bits accuracy falls sharply (Piranha, Watson et al., USENIX Security 2022,
published such a fall between 14 and 16 bits, for networks *trained* on shares). The
encoding fails first, and in a ring of 32 bits the wrap-around of products.

Models are trained in the clear on the whole training set, then run on shares of test
images and of the parameters (`smpc.private`). They are emulated in `ideal` mode, which
has the values, messages and rounding of three parties with replicated shares. All
fraction bits of a ring are one compiled program. Columns, means over seeds:

    accuracy, agreement   of classes with the labels, and with the clear model
    encoding              RMS error of logits from rounded parameters and images alone
    truncation            from the products' rounding, in the ring of 64 bits
    wrap_around           by how much the ring of 32 bits differs from that of 64
    approximation         RMS error of probabilities, from the softmax in exact reals
    probabilities         and of probabilities on shares, all errors together

Rows with a `layer` are costs, by layer and in all: bytes that the busiest party sends
for 128 images, offline and online; rounds (for a layer those in which it sends:
independent layers share rounds); and seconds of messages on a LAN and a WAN. The last
row has CrypTen's own counters for the 784-128-10 perceptron, if PPML_LAB_CRYPTEN_PYTHON
names an interpreter (`secure_throughput`). `paper` takes about 20 minutes on 2 cores.

    python -m experiments.private_inference smoke
    python -m experiments.private_inference paper
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks import bench
from ppml_lab import data, federated, models, random, tables
from ppml_lab.smpc import approximations, network, private, private_costs
from ppml_lab.smpc import ring as rings


@dataclass(frozen=True)
class Experiment:
    """The models, bits and numbers of images."""

    dataset: str = "digits"
    """The data set of images."""
    models: tuple[str, ...] = ("logistic", "2nn")
    """Models: logistic, 2nn or cnn."""
    fraction_bits: tuple[int, ...] = (4, 8, 16)
    """Fraction bits of fixed-point numbers."""
    num_steps: int = 300
    """Steps of training, in the clear."""
    test_images: int = 200
    """Test images that are classified."""
    cnn_images: int = 50
    """Test images that the CNN classifies, which takes longer."""
    batch_size: int = 50
    """Images classified at once."""
    num_seeds: int = 2
    """Trainings of each model; the CNN has one."""


CONFIGS = {
    "smoke": Experiment(),
    "paper": Experiment(
        dataset="mnist",
        models=("logistic", "2nn", "cnn"),
        fraction_bits=tuple(range(4, 28, 2)),
        num_steps=3000,
        test_images=10_000,
        cnn_images=1000,
        batch_size=250,
        num_seeds=3,
    ),
}
PAGE = {
    "minutes": {"paper": 20},
    "tables": [
        {
            "where": {"layer": None},
            "by": ["model", "ring_bits"],
            "across": "fraction_bits",
            "of": {"accuracy": "accuracy_std"},
            "percent": ["accuracy"],
        },
        {
            "title": "the 2NN's errors in the ring of 64 bits",
            "where": {"model": "2nn", "ring_bits": 64},
            "by": ["fraction_bits"],
            "of": {
                "agreement": [],
                "encoding": [],
                "truncation": [],
                "approximation": [],
                "probabilities": [],
            },
        },
        {
            "title": "128 images: bytes of the busiest party, rounds, message seconds",
            "where": {"layer": ["inputs", "model"]},
            "by": ["model", "protocol", "layer"],
            "of": [
                "online_bytes",
                "offline_bytes",
                "rounds",
                "lan_seconds",
                "wan_seconds",
            ],
        },
    ],
}

EXPLORED = "It prices queries to a trained model: nothing is trained."
PRICED = [
    {
        "by": ["model", "protocol"],
        "of": ["online_bytes", "offline_bytes", "rounds", "lan_seconds", "wan_seconds"],
        "where": {"layer": "model"},
    },
    {
        "by": ["model", "ring_bits", "fraction_bits"],
        "of": ["accuracy", "clear_accuracy"],
        "where": {
            "protocol": "replicated",
            "layer": None,
            "fraction_bits": [4, 12, 16],
        },
    },
]
MODULES = {"logistic": models.logistic, "2nn": models.two_nn, "cnn": models.CNN}
RINGS = {32: rings.Z32, 64: rings.Z64}
COLUMNS = ("model", "ring_bits", "fraction_bits", "accuracy", "accuracy_std")
COLUMNS += ("agreement", "clear_accuracy", "encoding", "truncation", "wrap_around")
COLUMNS += ("approximation", "probabilities", "images", "seeds", "protocol", "layer")
COLUMNS += ("online_bytes", "offline_bytes", "rounds", "lan_seconds", "wan_seconds")
Row = dict[str, Any]


def trained(module: Any, dataset: data.Dataset, num_steps: int, seed: int) -> Any:
    """Parameters after SGD with momentum on the pooled training set."""
    shape = dataset.train["x"].shape[1:]
    task = models.flax_classification(module, shape)
    clients = data.federate(dataset.train, np.arange(len(dataset.train["y"])))
    algorithm = federated.central_sgd(
        task,
        optax.sgd(0.05, momentum=0.9),
        federated.fixed_size(len(dataset.train["y"]), 64),
    )
    state, _ = federated.simulate(
        jax.random.key(seed), algorithm, clients, num_rounds=num_steps
    )
    return state.params


def on_shares(
    module: Any, ring: rings.Ring, params: Any, batches: jax.Array, bits: jax.Array
) -> Any:
    """Logits and probabilities, `[bits, batches, batch, classes]` each."""

    def both(params: Any, images: jax.Array) -> Any:
        logits = module.apply(params, images)
        return logits, approximations.softmax(logits)

    def classify(bits: jax.Array, place: jax.Array, images: jax.Array) -> Any:
        how = private.protocol(ring=ring, fraction_bits=bits, ideal=True)
        seed = random.child(random.seed(jax.random.key(0)), place)
        parts = [random.child(seed, n) for n in range(3)]
        shared = (
            private.share(how, parts[0], params, owner="model"),
            private.share(how, parts[1], images),
        )
        return private.reveal(how, private.evaluate(how, parts[2], both, *shared))

    def all_batches(bits: jax.Array) -> Any:
        places = jnp.arange(len(batches))
        return jax.lax.map(lambda b: classify(bits, *b), (places, batches))

    return jax.jit(lambda bits: jax.lax.map(all_batches, bits))(bits)


def encoded_only(module: Any, params: Any, batches: Any, bits: int) -> np.ndarray:
    """The logits of rounded parameters and images, in float64."""
    with jax.enable_x64(True):
        scale = 2.0**bits

        def rounded(leaf: Any) -> jax.Array:
            return jnp.round(jnp.asarray(np.asarray(leaf), jnp.float64) * scale) / scale

        apply = jax.jit(lambda p, x: module.apply(p, x))
        params = jax.tree.map(rounded, params)
        return np.stack([apply(params, rounded(batch)) for batch in batches])


def rms(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(error, np.float64)))))


def errors(name: str, config: Experiment, dataset: data.Dataset, seed: int) -> Any:
    """Everything measured with one trained model, by ring and bits."""
    count = config.cnn_images if name == "cnn" else config.test_images
    batch = min(config.batch_size, count)
    assert dataset.num_classes is not None
    module = MODULES[name](dataset.num_classes)
    params = trained(module, dataset, config.num_steps, seed)
    images, labels = dataset.test["x"][:count], dataset.test["y"][:count]
    batches = jnp.asarray(images).reshape(-1, batch, *images.shape[1:])
    clear = np.stack([jax.jit(module.apply)(params, batch) for batch in batches])
    softmax = np.asarray(jax.nn.softmax(clear))
    approximated = np.asarray(approximations.softmax(jnp.asarray(clear)))
    bits = np.asarray(config.fraction_bits)
    found = {
        ring_bits: jax.tree.map(
            np.asarray, on_shares(module, ring, params, batches, jnp.asarray(bits))
        )
        for ring_bits, ring in RINGS.items()
    }
    measured = {}
    for place, f in enumerate(config.fraction_bits):
        encoded = encoded_only(module, params, batches, f)
        wide = found[64][0][place]
        for ring_bits, (logits, probabilities) in found.items():
            classes = logits[place].argmax(-1)
            measured[ring_bits, f] = {
                "accuracy": np.mean(classes.ravel() == labels),
                "clear_accuracy": np.mean(clear.argmax(-1).ravel() == labels),
                "agreement": np.mean(classes == clear.argmax(-1)),
                "encoding": rms(encoded - clear),
                "truncation": rms(wide - encoded),
                "wrap_around": rms(logits[place] - wide) if ring_bits == 32 else 0.0,
                "approximation": rms(approximated - softmax),
                "probabilities": rms(probabilities[place] - softmax),
            }
    return measured


def accuracies(name: str, config: Experiment, dataset: data.Dataset) -> list[Row]:
    num_seeds = 1 if name == "cnn" else config.num_seeds
    runs = [errors(name, config, dataset, seed) for seed in range(num_seeds)]
    rows = []
    for ring_bits, f in runs[0]:
        each = [run[ring_bits, f] for run in runs]
        found = {key: tables.mean(one[key] for one in each) for key in each[0]}
        means = {key: value.mean for key, value in found.items()}
        rows.append(
            {"model": name, "ring_bits": ring_bits, "fraction_bits": f, **means}
            | {"accuracy_std": found["accuracy"].std}
            | {"seeds": num_seeds, "protocol": "replicated"}
            | {"images": config.cnn_images if name == "cnn" else config.test_images}
        )
        print(f"{name}, {ring_bits} bits, {f} fraction bits: {means}", flush=True)
    return rows


def costs(name: str, function: Callable[..., Any], params: Any, images: Any) -> Any:
    """Bytes, rounds and seconds by layer, for additive and replicated shares."""
    for kind in ("additive", "replicated"):
        how = private.protocol(kind, ideal=True)
        for layer in private_costs.by_layer(how, function, params, images):
            yield {"model": name, "protocol": kind} | layer._asdict()


def perceptron(params: Any, images: jax.Array) -> jax.Array:
    """The 784-128-10 perceptron without biases, by which peers are compared."""
    with jax.named_scope("first"):
        hidden = images @ params["first"]
    with jax.named_scope("relu"):
        hidden = jnp.maximum(hidden, 0)
    with jax.named_scope("second"):
        return hidden @ params["second"]


def counted_by_crypten(folder: Path) -> list[Row]:
    """CrypTen's bytes and rounds for the perceptron, beside the lab's."""
    if not bench.is_here("crypten"):
        return []
    scripts = Path(bench.__file__).with_name("secure_throughput_workers")
    workers = bench.Workers(scripts, folder, 300.0, headlines=("rounds",))
    task = bench.Task("crypten", ("mlp",), {"repetitions": 1})
    ((report,),) = bench.in_turns(workers, [task], 1)
    if report is None:
        return []
    bits, rounds = 8 * report["party_bytes"], report["rounds"]
    return [
        {
            "model": "784-128-10",
            "protocol": "CrypTen 0.4.1",
            "layer": "model",
            "online_bytes": report["party_bytes"],
            "rounds": rounds,
            "lan_seconds": network.seconds(bits, network.LAN, exchanges=rounds),
            "wan_seconds": network.seconds(bits, network.WAN, exchanges=rounds),
        }
    ]


def measure(folder: Path, config: Experiment) -> list[Row]:
    dataset = data.load(config.dataset)
    images = jax.ShapeDtypeStruct((128, *dataset.train["x"].shape[1:]), jnp.float32)
    rows = []
    assert dataset.num_classes is not None
    for name in config.models:
        module = MODULES[name](dataset.num_classes)
        params = jax.eval_shape(module.init, jax.random.key(0), images)
        rows += accuracies(name, config, dataset)
        rows += costs(name, module.apply, params, images)
    weights = {"first": (784, 128), "second": (128, 10)}
    params = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in weights.items()}
    flat = jax.ShapeDtypeStruct((128, 784), jnp.float32)
    rows += costs("784-128-10", perceptron, params, flat)
    rows += counted_by_crypten(folder)
    return [dict.fromkeys(COLUMNS, "") | row for row in rows]


if __name__ == "__main__":
    bench.run("private_inference", __doc__ or "", CONFIGS, measure)
