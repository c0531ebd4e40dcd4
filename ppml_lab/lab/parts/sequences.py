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
    """What flax modules with logits for each token have in common.

    The data's `num_classes` say how many tokens there are.
    """

    @abc.abstractmethod
    def module(self, num_tokens: int, length: int) -> nn.Module:
        """Makes the network, from tokens `[n, length]` to logits `[n, length,
        num_tokens]`.
        """

    def network(self, facts: Facts) -> nn.Module:
        """The module of as many tokens, and for rows as long, as the data have."""
        return self.module(num_classes(facts), _length(inputs(facts)))

    def task(self, network: nn.Module, shape: tuple[int, ...]) -> base.Task:
        """See `models.flax_sequence`."""
        return models.flax_sequence(network, _length(shape))


@part
class FlaxSequence(SequenceModel):
    """A sequence model of one's own.

    FlaxSequence(my_module)    # a function of the number of tokens
    """

    make: Callable[[int], nn.Module]
    """From the number of tokens to the module; it has to be importable."""

    def module(self, num_tokens: int, length: int) -> nn.Module:
        """What `make` makes."""
        del length
        return self.make(num_tokens)


@part
class CharLstm(SequenceModel):
    """McMahan's LSTM for the next character: 820,522 parameters of 90 characters."""

    embedding: int = 8
    """Dimensions in which characters are embedded."""
    width: int = 256
    """Of a layer."""
    num_layers: int = 2
    """Of the LSTM."""

    def module(self, num_tokens: int, length: int) -> nn.Module:
        """An embedding, the layers and logits."""
        del length
        return models.CharLSTM(num_tokens, self.embedding, self.width, self.num_layers)


@part
class Transformer(SequenceModel):
    """A causal transformer with a learned position for each place of a row."""

    width: int = 128
    """Dimensions in which tokens and positions are embedded."""
    num_blocks: int = 2
    """Of attention and two dense layers each."""
    num_heads: int = 4
    """Which share width evenly."""
    hidden: int = 512
    """Width inside of a block's dense layers."""

    def module(self, num_tokens: int, length: int) -> nn.Module:
        """An embedding, the blocks and logits."""
        return models.Transformer(
            num_tokens, length, self.width, self.num_blocks, self.num_heads, self.hidden
        )


def _length(shape: tuple[int, ...]) -> int:
    """Tokens of a row."""
    if len(shape) != 1:
        raise ValueError(
            'model reads sequences of tokens "x", [n, length], and the data have '
            f"{list(shape)} for each; give a model part of your own"
        )
    return shape[0]
