"""Key identities: which runs share their randomness, and which must not.

A run's key is that of its seed. A run that promises privacy folds in what it is: its
configuration and numbers, and the data. So no two private runs share initial
parameters, cohorts, batches or noise, which whoever sees both could else cancel.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ppml_lab import base
from ppml_lab.lab import records
from ppml_lab.lab.config import Config, Hyperparams
from ppml_lab.lab.experiment import build
from ppml_lab.lab.loading import DataFacts

SEED_ALONE = "seed"
"""The key identity of runs that promise nothing: a seed's are paired."""

_LENGTH = ("num_rounds", "eval_every", "evals_per_chunk", "stop_at_accuracy")
_LAYOUT = ("num_lanes", "num_devices", "shard_data")
# A secure sum's modes give the same bits by design.
_SAME_BITS = ("secure_mode",)


def key_identity(config: Config, hyperparams: Hyperparams, facts: DataFacts) -> str:
    """What a run's key is made of beside its seed, as a short text.

    **Guarantee:** two runs of equal seeds and identities are the same run, up to its
    length, how it lies on devices, and the rounding of that: one release, of which the
    shorter is the beginning of the longer. Two private runs that differ in a number, a
    name or a single value of the train examples have independent keys, as far as the
    generator (no cryptographic one) makes them so.

    Returns:
      `SEED_ALONE` if the run promises nothing, else a text of its own.

    Raises:
      ValueError: If the run cannot be built, or is private and `facts` are of no data.
    """
    if not promises_privacy(config, facts):
        return SEED_ALONE
    numbers = np.array([*hyperparams], np.float32) + np.float32(0)
    whole = _words_of(config, facts).tobytes() + numbers.astype("<f4").tobytes()
    return f"own {hashlib.sha256(whole).hexdigest()[:16]}"


def keys_of(
    config: Config, hyperparams: Hyperparams, facts: DataFacts, seed: Any
) -> tuple[base.Key, base.Key]:
    """The keys of a run's initial parameters and of its rounds; see `key_identity`.

    Args:
      config: What is compiled.
      hyperparams: Numbers; may be traced, so that a sweep compiles once.
      facts: About the data.
      seed: From 0 to 2^32 - 1; may be traced.
    """
    key = jax.random.key(seed)
    if promises_privacy(config, facts):
        words = [jnp.asarray(_words_of(config, facts)), _bits_of(hyperparams)]
        key, _ = jax.lax.scan(
            lambda key, word: (jax.random.fold_in(key, word), None),
            key,
            jnp.concatenate(words),
        )
    init_key, rounds_key = jax.random.split(key)
    return init_key, rounds_key


@functools.lru_cache(maxsize=256)
def promises_privacy(config: Config, facts: DataFacts) -> bool:
    """Whether runs of a configuration protect anything, whatever their numbers: also
    where noise_multiplier is 0.

    Raises:
      ValueError: If they cannot be built.
    """
    # What is promised to whom depends on no number, and numbers that do not fit the
    # bits of a secure sum are refused elsewhere.
    clear = dataclasses.replace(config, secure_sum="clear")
    event = build(clear, Hyperparams(), facts).event(1)
    return event.privacy_unit is not None or bool(event.beside)


@functools.lru_cache(maxsize=256)
def _words_of(config: Config, facts: DataFacts) -> np.ndarray:
    """A digest of a configuration and of the data, as words `[8]`."""
    if facts.digests is None:
        raise ValueError(
            "facts.digests is None: a private run's key depends on the data; take the "
            "facts of lab.load_data"
        )
    fields = dataclasses.asdict(config)
    for name in (*_LENGTH, *_LAYOUT, *_SAME_BITS):
        del fields[name]
    fields["data"] = _plain(fields["data"])
    text = records.canonical([_plain(fields), facts.digests.stored])
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), "<u4").copy()


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with every number as a float: 1 and 1.0 are one."""
    return {
        name: float(value)
        if isinstance(value, int | float | np.number) and not isinstance(value, bool)
        else value
        for name, value in fields.items()
    }


def _bits_of(hyperparams: Hyperparams) -> Array:
    """The numbers' bits as words `[numbers]`; 0 and -0 have the same."""
    numbers = jnp.stack([jnp.asarray(value, jnp.float32) for value in hyperparams])
    bits = jax.lax.bitcast_convert_type(numbers, jnp.uint32)
    # Compared as numbers, denormal ones would be 0 on some devices.
    return jnp.where(bits == jnp.uint32(1 << 31), jnp.uint32(0), bits)
