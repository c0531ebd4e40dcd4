"""Models that predict the next token at every place of a sequence.

They read integers in [0, vocab_size), int32 `[n, length]`, and give logits `[n, length,
vocab_size]`. The logits at a place depend only on the tokens up to it, so that padding
behind a sequence needs a mask only in the loss. Any other integer gives NaN at its own
place, which is an error there or padding, and counts as token 0 at later places. `dp`'s
ghost norms support all of their layers.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from ppml_lab import checks


class CharLSTM(nn.Module):
    """An LSTM for the next character: 820,522 parameters for 90 characters.

    Characters are embedded in 8 dimensions and go through two layers of 256, as in
    McMahan et al., "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", AISTATS 2017, and Caldas et al., "LEAF: A Benchmark for
    Federated Settings", 2018.
    """

    vocab_size: int
    embedding: int = 8
    width: int = 256
    num_layers: int = 2

    def __post_init__(self) -> None:
        checks.at_least("vocab_size", self.vocab_size, 2)
        for name in ("embedding", "width", "num_layers"):
            checks.at_least(name, getattr(self, name), 1)
        super().__post_init__()

    @nn.compact
    def __call__(self, tokens: Array) -> Float[Array, "n length v"]:
        _check_tokens(self, self.vocab_size, tokens)
        tokens, unknown = _known(tokens, self.vocab_size)
        h = nn.Embed(self.vocab_size, self.embedding)(tokens)
        for _ in range(self.num_layers):
            layer: Any = nn.RNN(nn.OptimizedLSTMCell(self.width))
            h = layer(h)
        return nn.Dense(self.vocab_size)(h) + unknown


class Block(nn.Module):
    """A pre-norm block of a transformer: causal attention, then two dense layers."""

    num_heads: int
    hidden: int

    @nn.compact
    def __call__(self, h: Float[Array, "n length w"]) -> Float[Array, "n length w"]:
        mask = nn.make_causal_mask(h[0, :, 0], dtype=jnp.bool_)
        attention = nn.MultiHeadDotProductAttention(self.num_heads)
        attended: Any = attention(nn.LayerNorm()(h), mask=mask)
        h = h + attended
        inner = nn.gelu(nn.Dense(self.hidden)(nn.LayerNorm()(h)))
        return h + nn.Dense(h.shape[-1])(inner)


class Transformer(nn.Module):
    """A causal transformer with learned positions, pre-norm blocks and no dropout.

    It is that of Radford et al., "Language Models are Unsupervised Multitask Learners",
    2019 (GPT-2), without tied embeddings: `num_blocks` blocks, whose dense layers are
    `hidden` wide inside, on tokens and positions embedded in `width` dimensions.

    Raises:
      ValueError: For sizes below 1, or heads that do not share `width` evenly; when
        called, for sequences longer than `max_length`.
    """

    vocab_size: int
    max_length: int
    width: int = 128
    num_blocks: int = 2
    num_heads: int = 4
    hidden: int = 512

    def __post_init__(self) -> None:
        checks.at_least("vocab_size", self.vocab_size, 2)
        for name in ("max_length", "width", "num_blocks", "num_heads", "hidden"):
            checks.at_least(name, getattr(self, name), 1)
        if self.width % self.num_heads:
            raise ValueError(
                f"width must be a multiple of num_heads, got {self.width} for "
                f"{self.num_heads} heads; each has width / num_heads dimensions"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, tokens: Array) -> Float[Array, "n length v"]:
        _check_tokens(self, self.vocab_size, tokens)
        tokens, unknown = _known(tokens, self.vocab_size)
        length = tokens.shape[1]
        if length > self.max_length:
            raise ValueError(
                f"tokens have length {length}, but the Transformer has "
                f"max_length={self.max_length}; build it with max_length={length}, or "
                f"cut sequences to {self.max_length} tokens"
            )
        words = nn.Embed(self.vocab_size, self.width, name="tokens")(tokens)
        table = nn.Embed(self.max_length, self.width, name="positions")
        h = words + table(jnp.arange(length))
        for _ in range(self.num_blocks):
            h = Block(self.num_heads, self.hidden)(h)
        return nn.Dense(self.vocab_size)(nn.LayerNorm()(h)) + unknown


def _known(tokens: Array, vocab_size: int) -> tuple[Array, Array]:
    """The tokens, with 0 for what is none, and what to add to logits: NaN there."""
    is_known = (tokens >= 0) & (tokens < vocab_size)
    return jnp.where(is_known, tokens, 0), jnp.where(is_known, 0, jnp.nan)[..., None]


def _check_tokens(module: nn.Module, vocab_size: int, tokens: Any) -> None:
    """Raises ValueError unless tokens are integers `[n, length]`."""
    name, shape, dtype = type(module).__name__, tokens.shape, tokens.dtype
    if len(shape) != 2 or not shape[1]:
        raise ValueError(
            f"{name} takes tokens [n, length], got {list(shape)}; pad or cut sequences "
            "to the same length"
        )
    if not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(
            f"{name} takes tokens that are integers in [0, {vocab_size}), got {dtype}; "
            "number the tokens"
        )
