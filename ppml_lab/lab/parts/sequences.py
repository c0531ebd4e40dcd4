"""Models that predict the next token of a sequence, as parts."""

from __future__ import annotations

import abc
from collections.abc import Callable

import flax.linen as nn

from ppml_lab import base, models
from ppml_lab.lab.parts import tasks
from ppml_lab.lab.parts.models import inputs, num_classes
from ppml_lab.lab.setup import Facts
from ppml_lab.lab.tree.part import part


class SequenceModel(tasks.FlaxTask):
    """The base of flax modules with logits for each token.

    The data's `num_classes` is the number of tokens.
    """

    @abc.abstractmethod
    def module(self, num_tokens: int, length: int) -> nn.Module:
        """Returns the network, from tokens `[n, length]` to logits `[n, length,
        num_tokens]`.
        """

    def network(self, facts: Facts) -> nn.Module:
        """Returns the module for the number of tokens, and the length of rows, of the
        data.
        """
        return self.module(num_classes(facts), _length(inputs(facts)))

    def task(self, network: nn.Module, shape: tuple[int, ...]) -> base.Task:
        """See `models.flax_sequence`."""
        return models.flax_sequence(network, _length(shape))


@part
class FlaxSequence(SequenceModel):
    """A flax sequence model of your own.

    FlaxSequence(my_module)    # a function of the number of tokens
    """

    make: Callable[[int], nn.Module]
    """A function from the number of tokens to the module; it must be importable."""

    def module(self, num_tokens: int, length: int) -> nn.Module:
        """Returns the module that `make` makes."""
        del length
        return self.make(num_tokens)


@part
class CharLstm(SequenceModel):
    """McMahan's LSTM for the next character: 820,522 parameters for 90 characters."""

    embedding: int = 8
    """Dimension of the embedding of characters."""
    width: int = 256
    """Width of an LSTM layer."""
    num_layers: int = 2
    """Number of LSTM layers."""

    def module(self, num_tokens: int, length: int) -> nn.Module:
        """Returns an embedding, the layers and logits."""
        del length
        return models.CharLSTM(num_tokens, self.embedding, self.width, self.num_layers)


@part
class Transformer(SequenceModel):
    """A causal transformer with a learned position for each place of a row."""

    width: int = 128
    """Dimension of the embedding of tokens and positions."""
    num_blocks: int = 2
    """Number of blocks; a block is attention and two dense layers."""
    num_heads: int = 4
    """Number of attention heads, which share `width` evenly."""
    hidden: int = 512
    """Width between the two dense layers of a block."""

    def module(self, num_tokens: int, length: int) -> nn.Module:
        """Returns an embedding, the blocks and logits."""
        return models.Transformer(
            num_tokens, length, self.width, self.num_blocks, self.num_heads, self.hidden
        )


def _length(shape: tuple[int, ...]) -> int:
    """Returns the number of tokens in a row."""
    if len(shape) != 1:
        raise ValueError(
            'model reads sequences of tokens "x", [n, length], but the data have '
            f"{list(shape)} for each example; give a model part of your own"
        )
    return shape[0]
