"""Image features without learning: the scattering transform.

    features = scattering.features(images)            # [n, 28, 28, 1] -> [n, 7, 7, 81]

The transform convolves an image with wavelets of several scales and directions, takes
moduli, convolves these once more, and blurs the moduli to features. Nothing is fitted
to data, so that private learning pays only for the classifier, which may be linear.

Bruna, Mallat. Invariant Scattering Convolution Networks. IEEE PAMI, 2013. Tramer,
Boneh. Differentially Private Learning Needs Better Features (or Much More Data). ICLR
2021.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ppml_lab import arguments, checks
from ppml_lab.data import alike

BATCH = 128
"""Number of images transformed at once; the maps of one take about a megabyte."""

_WIDTH, _FREQUENCY, _SLANT = 0.8, 3 * math.pi / 4, 4.0
_SMALLEST_VARIANCE = 1e-5
_ALIASES = 2 * np.pi * np.arange(-3, 4)


class Bank(NamedTuple):
    """The filters' Fourier transforms, all real, on a torus of `[height, width]`
    pixels.
    """

    low: np.ndarray
    """`[height, width]`: a Gaussian whose standard deviation is 0.4 * 2^scales."""
    waves: np.ndarray
    """`[scales, angles, height, width]`: Morlet wavelets, waves in a Gaussian window
    minus the multiple of the Gaussian that makes their sum zero."""

    def energy(self) -> np.ndarray:
        """The share of an image's energy that passes at each frequency, `[height,
        width]`, at most 1: the Littlewood-Paley sum.
        """
        power = np.square(self.waves).sum((0, 1))
        opposite = np.roll(power[::-1, ::-1], 1, (0, 1))
        return np.square(self.low) + (power + opposite) / 2


@functools.lru_cache(maxsize=8)
def bank(shape: tuple[int, int], num_scales: int = 2, num_angles: int = 8) -> Bank:
    """The filters for images of a shape: wave j of `num_scales` is 8/3 * 2^j pixels
    long, angle l is a turn by pi * l / `num_angles`.

    The waves are scaled as large as possible without passing any frequency more than
    once, so that no map has more energy than the image.
    """
    low = _bump(shape, _WIDTH * 2 ** (num_scales - 1), 0.0, 0.0, 1.0)
    low /= low[0, 0]
    slant = _SLANT / num_angles
    waves = np.empty((num_scales, num_angles, *shape))
    for j in range(num_scales):
        for angle in range(num_angles):
            turn = np.pi * angle / num_angles
            window = _WIDTH * 2**j, turn, slant
            wave = _bump(shape, window[0], _FREQUENCY / 2**j, *window[1:])
            still = _bump(shape, window[0], 0.0, *window[1:])
            waves[j, angle] = wave - wave[0, 0] / still[0, 0] * still
    passed = Bank(np.zeros(shape), waves).energy()
    most = np.divide(1 - low**2, passed, np.full(shape, np.inf), where=passed > 1e-12)
    return Bank(low, waves * math.sqrt(most.min()))


def _bump(
    shape: tuple[int, int], width: float, frequency: float, turn: float, slant: float
) -> np.ndarray:
    """The Fourier transform of samples of a wave in a Gaussian window: a bump around
    its frequency, in every period of the sampled plane.
    """
    rows, columns = (
        2 * np.pi * np.fft.fftfreq(size)[:, None] + _ALIASES for size in shape
    )
    rows, columns = rows[:, None, :, None], columns[None, :, None, :]
    along = math.cos(turn) * rows + math.sin(turn) * columns - frequency
    across = math.cos(turn) * columns - math.sin(turn) * rows
    return np.exp(-((width * along) ** 2 + (width * across / slant) ** 2) / 2).sum(
        (2, 3)
    )


@arguments.checked
def transform(
    images: Any, num_scales: int = 2, num_angles: int = 8
) -> Float[Array, "n rows columns features"]:
    """The scattering coefficients of images, `[n, height, width, channels]`.

    Order 0 is the blurred image. Order 1 is, for each wave, the blurred modulus of the
    image's convolution with the wave. Order 2 is, for each longer wave, the same for
    that modulus. Coefficients are taken at every 2^num_scales-th pixel, so that 28x28
    pixels become `[7, 7, 81]` and 32x32 in colour `[8, 8, 243]`. Images are mirrored
    beyond their edges. The moduli of wave j are kept and blurred at every 2^j-th pixel,
    which is several times as fast and changes coefficients by about 1%.

    Returns:
      The coefficients, channel by channel, and in each channel order by order, shorter
      waves first.

    Raises:
      ValueError: If these are no images, or their sizes do not fit the scales.
    """
    _check(images, num_scales, num_angles)
    step = 2**num_scales
    pad = [(0, 0), (step, step), (step, step), (0, 0)]
    padded = jnp.pad(jnp.asarray(images, jnp.float32), pad, mode="reflect")
    found = []
    for every, maps in moduli(jnp.moveaxis(padded, 3, 1), num_scales, num_angles):
        low = bank(padded.shape[1:3], num_scales, num_angles).low
        rows, columns = (
            every * _circulant(one)[step:-step:step, ::every]
            for one in (low[:, 0], low[0, :])
        )
        found.append(jnp.einsum("ncphw,ih,jw->nijcp", maps, rows, columns))
    return jnp.concatenate(found, -1).reshape(*found[0].shape[:3], -1)


def moduli(
    images: Float[Array, "*n rows columns"],
    num_scales: int,
    num_angles: int,
    *,
    thinned: bool = True,
) -> list[tuple[int, Array]]:
    """The maps that `transform` blurs, for images on a torus, whose opposite edges
    touch: the images themselves, then the moduli of order 1 and those of order 2.

    Returns:
      Pairs of a distance in pixels and maps `[*n, paths, rows, columns]` sampled at it:
      2^j for those behind wave j, or 1 for all unless `thinned`.
    """
    waves = bank(images.shape[-2:], num_scales, num_angles).waves.astype(np.complex64)

    def waved(apart: int, maps: Array, j: int) -> tuple[int, Array]:
        """The moduli of maps `[*n, paths, h, w]` after each angle of wave j."""
        behind = 2**j if thinned else 1
        passed = jnp.fft.fft2(maps)[..., None, :, :] * (
            apart**2 * _folded(waves[j], apart)
        )
        found = jnp.fft.ifft2(_folded(passed, behind // apart))
        strength = jnp.sqrt(jnp.square(found.real) + jnp.square(found.imag))
        return behind, strength.reshape(*maps.shape[:-3], -1, *strength.shape[-2:])

    whole = (1, images[..., None, :, :])
    first = [waved(*whole, j) for j in range(num_scales)]
    pairs = itertools.combinations(range(num_scales), 2)
    return [whole, *first, *(waved(*first[i], j) for i, j in pairs)]


def _folded(transformed: Any, times: int) -> Any:
    """The Fourier transform of maps after keeping each `times`-th row and column."""
    rows, columns = transformed.shape[-2:]
    shape = (times, rows // times, times, columns // times)
    return transformed.reshape(*transformed.shape[:-2], *shape).mean((-4, -2))


def _circulant(transformed: np.ndarray) -> np.ndarray:
    """The matrix `[size, size]` float32 of a circular convolution, by its transform."""
    kernel, places = np.fft.ifft(transformed).real, np.arange(len(transformed))
    return kernel[places[:, None] - places].astype(np.float32)


@arguments.checked
def normalised(
    features: Float[Array, "n rows columns features"], num_groups: int = 27
) -> Float[Array, "n rows columns features"]:
    """Group normalisation (Wu and He, 2018): each example's features form `num_groups`
    groups of neighbours, and each group gets mean 0 and variance 1 over all places
    together. Flat groups stay small, as 1e-5 is added to their variance.

    An example is normalised by its own numbers alone, which costs no privacy. Means and
    variances of a whole data set depend on everybody's rows: they would have to be
    noised and paid for from the budget, as Tramer and Boneh do where they normalise by
    them.

    Raises:
      ValueError: If `num_groups` does not divide the number of features.
    """
    count = features.shape[-1]
    checks.at_least("num_groups", num_groups, 1)
    if count % num_groups:
        raise ValueError(
            f"num_groups must divide the {count} features of a position, got "
            f"{num_groups}"
        )
    groups = features.reshape(*features.shape[:-1], num_groups, -1)
    axes = (1, 2, 4)
    centred = groups - groups.mean(axes, keepdims=True)
    variance = jnp.square(centred).mean(axes, keepdims=True)
    return (centred / jnp.sqrt(variance + _SMALLEST_VARIANCE)).reshape(features.shape)


@arguments.checked
def features(
    images: Any, num_scales: int = 2, num_angles: int = 8, num_groups: int = 27
) -> np.ndarray:
    """The normalised scattering features of images on the host, float32.

    `BATCH` images are on the device at once. The result takes most of the memory: 952
    MB for 60,000 images of 28x28 pixels, 3,969 numbers each. Its last bits may differ
    between machines and releases, and with them the data's digest.

    Args:
      images: `[n, height, width, channels]`.
      num_scales: Number of wave lengths, each twice the one before.
      num_angles: Number of directions of each length.
      num_groups: Number of groups, see `normalised`.

    Raises:
      ValueError: As `transform` and `normalised` do.
    """
    _check(images, num_scales, num_angles)
    images = np.asarray(images)
    made = functools.partial(_batch, num_scales, num_angles, num_groups)
    one = jax.eval_shape(made, jax.ShapeDtypeStruct(images[:1].shape, np.float32))
    found = np.empty((len(images), *one.shape[1:]), np.float32)
    for start in range(0, len(images), BATCH):
        some = images[start : start + BATCH].astype(np.float32)
        # Batches have one size, so that an image's bits do not depend on the number of
        # images.
        filled = np.zeros((BATCH, *some.shape[1:]), np.float32)
        filled[: len(some)] = some
        found[start : start + BATCH] = made(filled)[: len(some)]
    return found


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _batch(num_scales: int, num_angles: int, num_groups: int, images: Array) -> Array:
    return normalised(transform(images, num_scales, num_angles), num_groups)


def _check(images: Any, num_scales: int, num_angles: int) -> None:
    checks.within("num_scales", num_scales, 1, 16)
    checks.at_least("num_angles", num_angles, 1)
    shape, step = np.shape(images), 2**num_scales
    if len(shape) != 4:
        raise ValueError(
            "images must be [n, height, width, channels], got rows of shape "
            f"{list(shape[1:])}; give grey images a last axis of 1"
        )
    if not (shape[0] and shape[3]):
        raise ValueError(
            f"images must have at least one image and one channel, got {list(shape)}"
        )
    kind = alike.type_of(images)
    if kind.kind in "cOSUMm":
        raise ValueError(f"images must be numbers, got {kind}")
    if any(size % step or size < 2 * step for size in shape[1:3]):
        raise ValueError(
            f"images of {shape[1]}x{shape[2]} pixels do not fit num_scales "
            f"{num_scales}, which takes multiples of {step}, at least {2 * step}; crop "
            "or pad the images, or lower num_scales"
        )
