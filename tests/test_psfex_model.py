"""PSFEx PSFs against what its author and others publish: two references that are not this package's."""

import galsim
import galsim.des
import numpy as np
import pytest
from afw_files import make_file, put_psfex
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from lsst.twinkles.diffim.adapters import read_afw_exposure
from lsst.twinkles.diffim.algorithms.read.psfex import PsfexModel

OFFSET, SCALE = (45.0, 35.0), (90.0, 70.0)  # those of put_psfex


def polynomial_terms(pos, group, degrees):
    """Return the terms in the order of PSFEx' ``poly_func``: exponents counted up, x first, as an odometer.

    Each group has its own budget, the sum of the exponents of its variables.
    """
    terms, exponents = [], [0] * len(pos)
    while True:
        terms.append(np.prod([p**e for p, e in zip(pos, exponents, strict=True)]))
        for d in range(len(pos)):
            spent = sum(e for e, g in zip(exponents, group, strict=True) if g == group[d])
            if spent < degrees[group[d]]:
                exponents[d] += 1
                break
            exponents[d] = 0
        else:
            return terms


def lanczos(x):
    """Return PSFEx' interpolant: INTERPFAC is 5."""
    if abs(x) < 1e-5:
        return 1.0
    return 0.0 if abs(x) > 5 else np.sin(np.pi * x) * np.sin(np.pi / 5 * x) / (np.pi**2 / 5 * x * x)


def resample(fine, shape, dx, dy, step):
    """Return ``vignet_resample`` pixel by pixel: 12 pixels a direction around each position, unit sums."""

    def weights(position, n):
        first = int(position)
        pixels = [p for p in range(first - 6, first + 6) if 0 <= p < n]
        values = [lanczos(p - position) for p in pixels]
        return [(p, v / sum(values)) for p, v in zip(pixels, values, strict=True)]

    (h1, w1), (h2, w2) = fine.shape, shape
    image = np.zeros(shape)
    for j in range(h2):
        for i in range(w2):
            x, y = w1 // 2 + dx + (i - w2 // 2) * step, h1 // 2 + dy + (j - h2 // 2) * step
            if 0 <= x <= w1 - 1 and 0 <= y <= h1 - 1:
                rows, columns = weights(y, h1), weights(x, w1)
                image[j, i] = sum(a * b * fine[q, p] for q, a in rows for p, b in columns)
    return image / image.sum()


def components_of(n, height, width, seed):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    bell = np.exp(-((x - width // 2) ** 2 + (y - height // 2) ** 2) / (0.02 * width * height))
    parts = rng.normal(0, 0.1, (n, height, width)) * bell
    parts[0] = bell + 0.01 * rng.normal(size=bell.shape)
    return parts.astype("f4")


@settings(max_examples=8)
@given(
    step=st.sampled_from([0.4, 0.5, 0.73, 1.0]),
    degrees_group=st.sampled_from([((0, 0), (2,)), ((0, 0), (1,)), ((0, 1), (2, 1)), ((1, 0), (1, 2))]),
    size=st.sampled_from([(25, 25), (31, 25), (24, 26)]),
    x=st.floats(0, 89),
    y=st.floats(0, 69),
)
def test_every_pixel_is_that_of_psfex(step, degrees_group, size, x, y):
    """Polynomial by polynomial and weight by weight, at any position and sampling."""
    group, degrees = degrees_group
    pos = [(p - o) / s for p, o, s in zip((x, y), OFFSET, SCALE, strict=True)]
    terms = polynomial_terms(pos, group, degrees)
    parts = components_of(len(terms), *size, seed=3)
    model = PsfexModel(parts, group, degrees, OFFSET, SCALE, step)
    fine = np.tensordot(terms, parts.astype(float), axes=1)
    shape = tuple(int(n * step) + 1 - int(n * step) % 2 for n in size)
    for centre in ((0.0, 0.0), (x, y)):
        stamp = model.image(x=x, y=y, centre=centre)
        assert stamp.array.shape == shape
        dx, dy = (c - np.floor(c) - (c - np.floor(c) > 0.5) for c in centre)
        expected = resample(fine, shape, -dx / step, -dy / step, 1 / step)
        np.testing.assert_allclose(stamp.array, expected, atol=1e-6 * expected.max())


def psfex_hdu(parts, step, degree):
    """Return the table that PSFEx writes to its ``.psf`` files."""
    n, height, width = parts.shape
    column = fits.Column("PSF_MASK", f"{parts.size}E", dim=f"({width}, {height}, {n})", array=parts[None])
    hdu = fits.BinTableHDU.from_columns([column], name="PSF_DATA")
    cards = {
        "POLNAXIS": 2, "POLNAME1": "X_IMAGE", "POLNAME2": "Y_IMAGE", "POLGRP1": 1, "POLGRP2": 1,
        "POLZERO1": OFFSET[0], "POLZERO2": OFFSET[1], "POLSCAL1": SCALE[0], "POLSCAL2": SCALE[1],
        "POLNGRP": 1, "POLDEG1": degree, "PSF_SAMP": step, "PSFNAXIS": 3, "PSFAXIS1": width,
        "PSFAXIS2": height, "PSFAXIS3": n,
    }  # fmt: skip
    hdu.header.update(cards)
    return hdu


def smooth_components(step, size, degree):
    """Return components of a PSF whose width grows with x and which is elongated with y."""
    n = (degree + 1) * (degree + 2) // 2
    r = (np.arange(size) - size // 2) * step

    def bell(a, b):
        image = np.exp(-0.5 * ((r / a) ** 2 + (r[:, None] / b) ** 2))
        return image / image.sum()

    parts = np.zeros((n, size, size))
    parts[0] = bell(2.0, 2.0)
    for term in range(1, n):
        parts[term] = 0.3 / term * (bell(2.0 + 0.2 * term, 2.0) - parts[0])
    return parts.astype("f4")


@pytest.mark.parametrize("step", [0.5, 0.7])
def test_archive_gives_what_galsim_makes_of_the_same_model(tmp_path, step):
    """The whole way: tables of an exposure here, a file of PSFEx read and drawn by galsim there."""
    parts = smooth_components(step, 51, degree=2)
    path = make_file(tmp_path / "a.fits", PSF=lambda a: put_psfex(a, parts, step=step, degree=2))
    psf = read_afw_exposure(path).psf
    other = galsim.des.DES_PSFEx(psfex_hdu(parts, step, 2), wcs=galsim.PixelScale(1.0))
    for x, y in ((3.0, 60.0), (45.0, 35.0), (80.0, 10.0)):
        image = psf.compute_kernel_image(x=x, y=y).array
        samples = galsim.Image(other.getPSFArray(galsim.PositionD(x, y)), scale=step)
        model = galsim.InterpolatedImage(samples, x_interpolant=galsim.Lanczos(5))
        drawn = model.drawImage(nx=image.shape[1], ny=image.shape[0], scale=1.0, method="no_pixel")
        expected = drawn.array / drawn.array.sum()
        np.testing.assert_allclose(image, expected, atol=5e-4 * expected.max())
    assert psf.average_position == (45.0, 35.0)
