"""The scattering transform beside sums over pixels, and what theory says of it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab.data import scattering

RNG = np.random.default_rng(0)
SIDE, SCALES, ANGLES = 16, 2, 4
IMAGES = RNG.normal(size=(2, SIDE, SIDE)).astype(np.float32)
BANK = scattering.bank((SIDE, SIDE), SCALES, ANGLES)


@jax.jit
def at_every_pixel(images):
    """The moduli of images on a torus, order by order."""
    found = scattering.moduli(images, SCALES, ANGLES, thinned=False)
    return [maps for _, maps in found]


@pytest.fixture(scope="module")
def whole():
    return [np.asarray(maps) for maps in at_every_pixel(IMAGES)]


def window(j, turn, slant, frequency):
    """Samples on the torus of a wave below a Gaussian, as the papers write it."""
    sigma, places = 0.8 * 2**j, np.arange(-4 * SIDE, 4 * SIDE)
    rows, columns = np.meshgrid(places, places, indexing="ij")
    along = np.cos(turn) * rows + np.sin(turn) * columns
    across = np.cos(turn) * columns - np.sin(turn) * rows
    values = np.exp(-(along**2 + (slant * across) ** 2) / (2 * sigma**2))
    values = values * np.exp(1j * frequency * along) * slant / (2 * np.pi * sigma**2)
    # Periods of the torus fall onto each other.
    return values.reshape(8, SIDE, 8, SIDE).sum((0, 2))


def test_the_filters_are_morlet_wavelets_on_a_torus():
    low = window(1, 0.0, 1.0, 0.0)
    np.testing.assert_allclose(np.fft.ifft2(BANK.low), low / low.sum().real, atol=1e-12)
    assert BANK.waves.shape == (SCALES, ANGLES, SIDE, SIDE)
    strengths = []
    for j, angle in itertools.product(range(SCALES), range(ANGLES)):
        about = j, np.pi * angle / ANGLES, 4 / ANGLES
        wave = window(*about, 3 * np.pi / 4 / 2**j)
        still = window(*about, 0.0)
        wave -= wave.sum() / still.sum() * still
        kernel = np.fft.ifft2(BANK.waves[j, angle])
        strengths.append((kernel * wave.conj()).sum() / np.square(abs(wave)).sum())
        np.testing.assert_allclose(kernel, strengths[-1] * wave, atol=1e-12)
        assert abs(kernel.sum()) < 1e-12
    # One strength for all of them.
    np.testing.assert_allclose(strengths, strengths[0], rtol=1e-9)


@pytest.mark.parametrize("shape", [(16, 16), (36, 36), (40, 24)])
def test_no_frequency_passes_twice_and_none_is_lost(shape):
    energy = scattering.bank(shape).energy()
    assert energy.max() == pytest.approx(1, abs=1e-12)
    assert energy[0, 0] == 1
    assert 0.13 < energy.min() < 0.14  # in the corners, between two diagonals
    assert 0.62 < energy.mean() < 0.64


def test_one_layer_keeps_the_energy_that_its_filters_let_pass(whole):
    """Parseval: of the blurred image and all moduli together, at every pixel."""
    frequencies = np.square(np.abs(np.fft.fft2(IMAGES)))
    expected = (BANK.energy() * frequencies).mean((1, 2))
    moduli = sum(np.square(maps).sum((1, 2, 3)) for maps in whole[1 : 1 + SCALES])
    found = np.square(blurred(IMAGES)).sum((1, 2)) + moduli
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    share = found / np.square(IMAGES).sum((1, 2))
    assert (share >= BANK.energy().min()).all()
    assert (share <= 1).all()


def test_coefficients_have_no_more_energy_than_the_image(whole):
    """Not even of an image of which all passes: one of waves that all filters share."""
    found = sum(np.square(blurred(maps)).sum((1, 2, 3)) for maps in whole)
    share = found / np.square(IMAGES).sum((1, 2))
    assert (share > 0.2).all()
    assert (share < 1).all()
    flat = np.ones((1, SIDE, SIDE), np.float32)
    image, *others = at_every_pixel(np.repeat(flat, 2, 0))
    np.testing.assert_allclose(blurred(image), 1, rtol=1e-6)
    assert max(float(maps.max()) for maps in others) < 1e-5


def blurred(maps):
    return np.fft.ifft2(np.fft.fft2(maps) * BANK.low).real


def convolved(maps, kernel):
    """Circular convolution, pixel by pixel."""
    found = np.zeros(maps.shape, np.result_type(maps, kernel))
    for row, column in np.ndindex(kernel.shape):
        found += kernel[row, column] * np.roll(maps, (row, column), (-2, -1))
    return found


def by_hand(image, scales, angles):
    """The coefficients of one image `[height, width]`, by sums over pixels."""
    step = 2**scales
    padded = np.pad(image, step, mode="reflect").astype(float)
    bank = scattering.bank(padded.shape, scales, angles)
    kernels, low = np.fft.ifft2(bank.waves), np.fft.ifft2(bank.low).real

    def waved(apart, maps, j):
        # Of every so manieth pixel; each stands for those that are left out.
        kernel, left = apart**2 * kernels[j, :, ::apart, ::apart], 2**j // apart
        found = np.stack([abs(convolved(maps, k)) for k in kernel], 1)
        return 2**j, found.reshape(-1, *maps.shape[1:])[:, ::left, ::left]

    first = [waved(1, padded[None], j) for j in range(scales)]
    pairs = itertools.combinations(range(scales), 2)
    maps = [(1, padded[None]), *first, *(waved(*first[i], j) for i, j in pairs)]
    found = []
    for apart, one in maps:
        smooth = convolved(one, apart**2 * low[::apart, ::apart])
        found.append(smooth[:, :: step // apart, :: step // apart][:, 1:-1, 1:-1])
    return np.concatenate(found).transpose(1, 2, 0)


@pytest.mark.parametrize(("scales", "angles"), [(2, 3), (1, 2)])
def test_coefficients_are_those_of_sums_over_pixels(scales, angles):
    images = RNG.uniform(size=(2, 12, 8, 2)).astype(np.float32)
    transform = jax.jit(scattering.transform, static_argnums=(1, 2))
    found = transform(images, scales, angles)
    channels = np.moveaxis(images[1], -1, 0)
    expected = np.concatenate([by_hand(one, scales, angles) for one in channels], -1)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[1], expected, atol=2e-6)


def test_leaving_out_pixels_changes_little(whole):
    """Not even of white noise, whose moduli are the least smooth."""

    def thinned(images):
        return [maps for _, maps in scattering.moduli(images, SCALES, ANGLES)]

    found = map(np.asarray, jax.jit(thinned)(IMAGES))
    for apart, maps, every in zip((1, 1, 2, 2), found, whole, strict=True):
        assert maps.shape[-2:] == (SIDE // apart,) * 2
        low = np.fft.fft2(apart**2 * np.fft.ifft2(BANK.low)[::apart, ::apart])
        smooth = np.fft.ifft2(np.fft.fft2(maps) * low).real
        expected = blurred(every)[..., ::apart, ::apart]
        error = np.linalg.norm(smooth - expected) / np.linalg.norm(expected)
        assert error < (1e-6 if apart == 1 else 0.05)


def test_moduli_move_and_turn_with_the_image(whole):
    for maps, moved in zip(
        whole, at_every_pixel(np.roll(IMAGES, (3, 5), (1, 2))), strict=True
    ):
        np.testing.assert_allclose(moved, np.roll(maps, (3, 5), (2, 3)), atol=1e-5)
    # By a quarter, around the pixel at 0, 0; waves of the opposite direction are alike.
    turned = at_every_pixel(quarter(IMAGES))
    half = ANGLES // 2
    for order in (1, 2):
        maps, found = whole[order], turned[order]
        np.testing.assert_allclose(found, quarter(np.roll(maps, half, 1)), atol=1e-5)
    square = (2, ANGLES, ANGLES, SIDE, SIDE)
    both = np.roll(whole[3].reshape(square), (half, half), (1, 2))
    np.testing.assert_allclose(turned[3].reshape(square), quarter(both), atol=1e-5)


def quarter(images):
    return np.roll(images[..., ::-1], 1, -1).swapaxes(-2, -1)


def test_a_small_shift_changes_features_less_than_pixels():
    image = np.zeros((1, 16, 16, 1), np.float32)
    image[0, 5:10, 5:10, 0] = RNG.uniform(size=(5, 5))

    def change(make):
        before, after = make(image), make(np.roll(image, 1, 2))
        return np.linalg.norm(after - before) / np.linalg.norm(before)

    pixels = change(lambda x: x)
    assert change(jax.jit(scattering.transform)) < 0.4 * pixels


def test_shapes_are_those_of_the_papers():
    for shape, expected in (
        ((5, 28, 28, 1), (5, 7, 7, 81)),
        ((5, 32, 32, 3), (5, 8, 8, 243)),
    ):
        images = jax.ShapeDtypeStruct(shape, jnp.float32)
        assert jax.eval_shape(scattering.transform, images).shape == expected


def groups_by_hand(x, count):
    """Normalised features of one example, `[rows, columns, features]`."""
    groups = x.reshape(*x.shape[:2], count, -1).astype(float)
    mean, variance = (f(groups, (0, 1, 3), keepdims=True) for f in (np.mean, np.var))
    return ((groups - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)


def test_features_are_normalised_in_groups_of_an_example():
    x = RNG.normal(3, 2, size=(3, 2, 2, 12)).astype(np.float32)
    found = np.asarray(scattering.normalised(jnp.asarray(x), 4))
    expected = np.stack([groups_by_hand(one, 4) for one in x])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found[..., 3:6].mean((1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(found[..., 3:6].std((1, 2, 3)), 1, atol=1e-4)


def test_an_images_features_depend_on_no_other_image(monkeypatch):
    monkeypatch.setattr(scattering, "BATCH", 4)
    images = RNG.uniform(size=(6, 8, 8, 1))
    images[3] = 0
    found = scattering.features(images)
    assert (found.shape, found.dtype) == ((6, 2, 2, 81), np.float32)
    np.testing.assert_array_equal(scattering.features(images[5:]), found[5:])
    np.testing.assert_array_equal(found[3], 0)
    expected = groups_by_hand(by_hand(images[5, ..., 0], 2, 8), 27)
    np.testing.assert_allclose(found[5], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "numbers", "message"),
    [
        ((2, 28, 28), {}, r"images must be .* rows of shape \[28, 28\]; give grey"),
        ((2, 9), {}, r"images must be \[n, height, width, channels\]"),
        ((2, 4, 8, 1), {}, r"4x8 pixels do not fit num_scales 2, .* multiples of 4"),
        ((2, 28, 30, 1), {}, "28x30 pixels do not fit num_scales 2"),
        ((2, 28, 28, 1), {"num_scales": 3}, "multiples of 8, at least 16; crop or pad"),
        ((2, 8, 8, 1), {"num_scales": 0}, r"num_scales must lie in \[1, 16\]"),
        ((2, 8, 8, 1), {"num_scales": 10**9}, r"num_scales must lie in \[1, 16\]"),
        ((2, 8, 8, 1), {"num_angles": 0}, "num_angles must be"),
        ((2, 8, 8, 1), {"num_groups": 0}, "num_groups must be"),
        ((2, 8, 8, 1), {"num_groups": 5}, "num_groups must divide the 81 features"),
        (
            (0, 8, 8, 1),
            {},
            r"images must have at least one image and one channel, got \[0, 8",
        ),
    ],
)
def test_bad_input(shape, numbers, message):
    with pytest.raises(ValueError, match=message):
        scattering.features(np.zeros(shape, np.float32), **numbers)
    with pytest.raises(ValueError, match="images must be numbers, got"):
        scattering.features(np.full((2, 8, 8, 1), "x"))
