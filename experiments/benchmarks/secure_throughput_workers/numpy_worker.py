"""The worker of numpy as a careful programmer uses it, with one thread.

`share_3`, `share_10` and `masks_aes` take random words from AES-128-CTR by OpenSSL, if
`cryptography` is installed. Otherwise shares come from numpy's Philox, as `masks`
always do. `shamir` is Horner's rule in the field of 2^31 - 1 in uint64, a chunk of
secrets at all points at once, and Lagrange's interpolation.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Sequence

import numpy as np

from experiments.benchmarks.secure_throughput_workers import work

HAS_AES = importlib.util.find_spec("cryptography") is not None
FIELD = np.uint64(2**31 - 1)
ABOUT = {"system": "NumPy", "version": np.__version__}
CHUNK = 500  # Secrets whose shares stay in the cache.


def philox(key: bytes, out: np.ndarray) -> None:
    """Fills `out` with random words."""
    bits = np.random.Philox(key=np.frombuffer(key, np.uint64))
    raw = bits.random_raw(-(-out.nbytes // 8)).view(out.dtype)
    out[...] = raw[: out.size].reshape(out.shape)


def aes(key: bytes, out: np.ndarray) -> None:
    """Fills `out`, which is contiguous, with random words."""
    # pyrefly: ignore[missing-import]
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    zeros, target = bytes(2**16), out.data.cast("B")
    for start in range(0, len(target), len(zeros)):
        part = target[start : start + len(zeros)]
        stream.update_into(zeros[: len(part)], part)


def additive(options: argparse.Namespace) -> None:
    """Shares and reconstructs words, modulo their size."""
    fill, generator = (aes, "AES-128-CTR") if HAS_AES else (philox, "Philox4x64-10")
    secrets = work.words(options, options.values, options.word_bits)
    parties = work.PARTIES[options.task]

    def share(secrets: np.ndarray) -> np.ndarray:
        shares = np.empty((parties, *secrets.shape), secrets.dtype)
        fill(os.urandom(16), shares[1:])
        shares[0] = secrets
        for mask in shares[1:]:
            shares[0] -= mask
        return shares

    def reconstruct(shares: np.ndarray) -> np.ndarray:
        return shares.sum(axis=0, dtype=shares.dtype)

    phases = {"share": share, "reconstruct": reconstruct}
    opened = work.report(options, secrets, phases, **ABOUT, generator=generator)
    assert np.array_equal(opened, secrets)


def masks(options: argparse.Namespace) -> None:
    """Adds masks to a vector, modulo 2^32."""
    use_aes = options.task == "masks_aes"
    fill, generator = (aes, "AES-128-CTR") if use_aes else (philox, "Philox4x64-10")
    rng = np.random.default_rng(options.seed)
    keys = [rng.bytes(16) for _ in range(options.timed)]
    vector = work.words(options, options.words)

    def masked(vector: np.ndarray) -> np.ndarray:
        total, mask = vector.copy(), np.empty_like(vector)
        for key in keys:
            fill(key, mask)
            total += mask
        return total

    total = work.report(options, vector, {"mask": masked}, **ABOUT, generator=generator)
    all_masks = np.empty((len(keys), vector.size), np.uint32)
    for key, mask in zip(keys, all_masks, strict=True):
        fill(key, mask)
    assert np.array_equal(total - vector, all_masks.sum(axis=0, dtype=np.uint32))


def shamir(options: argparse.Namespace) -> None:
    """Makes shares at points 1, 2, ..., and reconstructs from the first shares."""
    count, degree = options.timed, options.threshold - 1
    rng = np.random.Generator(np.random.Philox(options.seed))
    secrets = rng.integers(FIELD, size=count, dtype=np.uint64)
    points = np.arange(1, options.shares + 1, dtype=np.uint64)

    def share(secrets: np.ndarray) -> np.ndarray:
        shares = np.empty((len(points), count), np.uint32)
        for start in range(0, count, CHUNK):
            chunk = slice(start, start + CHUNK)
            size = (degree, len(secrets[chunk]))
            values = np.zeros((len(points), size[1]), np.uint64)
            for coefficient in rng.integers(FIELD, size=size, dtype=np.uint64):
                values += coefficient
                values *= points[:, None]
                reduce(values)
            shares[:, chunk] = (values + secrets[chunk]) % FIELD
        return shares

    def reconstruct(shares: np.ndarray) -> np.ndarray:
        total = np.zeros(count, np.uint64)
        weights = lagrange(range(1, options.threshold + 1))
        for weight, values in zip(weights, shares, strict=False):
            terms = values * np.uint64(weight)
            reduce(terms)
            total += terms
        return total % FIELD

    phases = {"share": share, "reconstruct": reconstruct}
    opened = work.report(options, secrets, phases, **ABOUT, generator="Philox4x64-10")
    assert np.array_equal(opened, secrets)


def reduce(numbers: np.ndarray) -> None:
    """Reduces products of field elements below 2^32, equal modulo `FIELD`."""
    high = numbers >> np.uint64(31)
    numbers &= FIELD
    numbers += high


def lagrange(points: Sequence[int]) -> list[int]:
    """The weights of values at the points in the interpolated value at 0."""
    weights, field = [], int(FIELD)
    for x in points:
        above, below = 1, 1
        for other in points:
            if other != x:
                above, below = above * other % field, below * (other - x) % field
        weights.append(above * pow(below, -1, field) % field)
    return weights


def main() -> None:
    shares = dict.fromkeys(work.PARTIES, additive)
    tasks = shares | {"shamir": shamir, "masks": masks}
    tasks |= {"masks_aes": masks} if HAS_AES else {}
    options = work.arguments(sorted(tasks))
    tasks[options.task](options)


if __name__ == "__main__":
    main()
