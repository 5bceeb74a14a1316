import galsim
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lsst.images import Box
from lsst.images.psfs import GaussianPointSpreadFunction

from lsst.twinkles.diffim.adapters.psfs import (
    InvalidPsfError,
    neighbour_ratio,
    psf_from_grid,
    psf_fwhm,
    psf_sigma,
    sample_psf,
)
from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid

BBOX = Box.factory[50:562, 100:612]


def gaussian(sigma: float, size: int = 31, g1: float = 0.0) -> np.ndarray:
    image = (
        galsim.Gaussian(sigma=sigma).shear(g1=g1).drawImage(nx=size, ny=size, scale=1.0, method="no_pixel")
    )
    return image.array.astype(float) / image.array.sum()


def varying_grid(n: int = 6, size: int = 31) -> PsfGrid:
    """Width rises with x, ellipticity with y, as over a CCD."""
    x = np.linspace(0, 511, n)
    y = np.linspace(0, 511, n)
    stamps = [[gaussian(2.0 + 0.2 * a / 511, size, g1=0.05 * b / 511) for a in x] for b in y]
    return PsfGrid(stamps=np.array(stamps), x=x, y=y)


class CallablePsf:
    """The smallest thing sample_psf accepts."""

    def __init__(self, function, bounds=BBOX):
        self.function, self.bounds, self.calls = function, bounds, []

    def compute_kernel_image(self, *, x, y):
        from lsst.images import Image

        self.calls.append((x, y))
        return Image(self.function(x, y), yx0=(-15, -15))


def test_gaussian_is_one_exact_node():
    grid = sample_psf(GaussianPointSpreadFunction(1.7, BBOX, 25), BBOX)
    assert grid.stamps.shape == (1, 1, 25, 25)
    np.testing.assert_allclose(grid.stamps[0, 0], gaussian(1.7, 25), atol=1e-7)


def test_single_node_of_a_varying_psf_is_that_of_the_middle():
    truth = varying_grid()
    one = sample_psf(psf_from_grid(truth, BBOX), BBOX, grid=1)
    assert one.stamps.shape[:2] == (1, 1)
    middle = truth.evaluate(x=255.5, y=255.5)
    assert np.abs(one.stamps[0, 0] - middle).max() < 0.002 * middle.max()
    assert psf_sigma(one) == pytest.approx(psf_sigma(truth), rel=0.01)


def test_neighbour_ratio():
    stamps = np.array([[gaussian(1.0), gaussian(2.0)]])
    grid = PsfGrid(stamps=stamps, x=np.array([0.0, 100.0]), y=np.zeros(1))
    assert neighbour_ratio(grid) == pytest.approx(np.exp(-0.5))
    sharp = np.zeros((5, 5))
    sharp[2, 2] = 1.0
    assert neighbour_ratio(PsfGrid.constant(sharp)) == 0.0


def test_constant_psf_of_another_kind_is_one_node():
    psf = CallablePsf(lambda x, y: gaussian(2.0))
    assert sample_psf(psf, BBOX).stamps.shape[:2] == (1, 1)
    assert len(psf.calls) < 8


def test_nodes_are_in_array_coordinates():
    psf = CallablePsf(lambda x, y: gaussian(1.5 + x / 1000 + y / 500))
    grid = sample_psf(psf, BBOX, grid=4)
    np.testing.assert_allclose(grid.x, np.linspace(0, 511, 4))
    np.testing.assert_allclose(grid.y, np.linspace(0, 511, 4))
    for j, i in ((0, 0), (3, 0), (1, 2)):
        truth = gaussian(1.5 + (grid.x[i] + 100) / 1000 + (grid.y[j] + 50) / 500)
        np.testing.assert_allclose(grid.stamps[j, i], truth, rtol=1e-6)


def test_size_pads_and_crops():
    psf = GaussianPointSpreadFunction(1.7, BBOX, 25)
    assert sample_psf(psf, BBOX, size=41).size == 41
    small = sample_psf(psf, BBOX, size=11)
    assert small.size == 11 and small.stamps.sum() == pytest.approx(1.0)


def test_even_stamps_keep_their_centre():
    even = np.zeros((30, 30))
    even[15, 15] = 2.0  # the centre pixel of an even stamp is n // 2
    grid = sample_psf(CallablePsf(lambda x, y: even), BBOX)
    assert grid.stamps.shape[2:] == (31, 31)
    assert grid.stamps[0, 0, 15, 15] == 1.0


def test_gaps_take_the_nearest_node():
    from lsst.images import BoundsError

    def function(x, y):
        if x < 200:
            raise BoundsError("gap")
        return gaussian(1.5 + x / 1000)

    grid = sample_psf(CallablePsf(function), BBOX, grid=6)
    np.testing.assert_array_equal(grid.stamps[:, 0], grid.stamps[:, 1])
    assert not np.array_equal(grid.stamps[:, 1], grid.stamps[:, 2])


@pytest.mark.parametrize(
    "stamp", [np.full((31, 31), np.nan), np.zeros((31, 31)), -gaussian(2.0)], ids=["nan", "zero", "negative"]
)
def test_bad_psf_is_refused_with_its_position(stamp):
    with pytest.raises(InvalidPsfError, match="at x=") as error:
        sample_psf(CallablePsf(lambda x, y: stamp), BBOX)
    assert BBOX.contains(x=error.value.x, y=error.value.y)


def test_missing_psf_and_no_overlap():
    with pytest.raises(InvalidPsfError, match="no PSF"):
        sample_psf(None, BBOX)
    elsewhere = CallablePsf(lambda x, y: gaussian(2.0), bounds=Box.factory[5000:5100, 0:100])
    with pytest.raises(InvalidPsfError, match="does not overlap"):
        sample_psf(elsewhere, BBOX)


def test_psf_valid_nowhere():
    from lsst.images import BoundsError

    def function(x, y):
        raise BoundsError("gap")

    with pytest.raises(InvalidPsfError, match="any of 9 positions"):
        sample_psf(CallablePsf(function), BBOX, grid=3)


def test_round_trip_at_the_nodes_and_between():
    grid = varying_grid()
    psf = psf_from_grid(grid, BBOX)
    again = sample_psf(psf, BBOX, grid=6)
    assert np.abs(again.stamps - grid.stamps).max() < 1e-3 * grid.stamps.max()
    truth = gaussian(2.0 + 0.2 * 300 / 511, g1=0.05 * 77 / 511)
    between = psf.compute_kernel_image(x=400, y=127).array
    assert np.abs(between - truth).max() < 1e-3 * truth.max()


def test_the_frame_of_the_box_does_not_matter():
    far = Box.factory[20000:20512, 35000:35512]
    near = sample_psf(psf_from_grid(varying_grid(), BBOX), BBOX)
    np.testing.assert_allclose(
        sample_psf(psf_from_grid(varying_grid(), far), far).stamps, near.stamps, atol=1e-9
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 2), (3, 5)])
def test_order_follows_the_grid(shape):
    full = varying_grid(5)
    grid = PsfGrid(
        stamps=full.stamps[: shape[0], : shape[1]].copy(), x=full.x[: shape[1]], y=full.y[: shape[0]]
    )
    psf = psf_from_grid(grid, BBOX)
    for j in range(shape[0]):
        for i in range(shape[1]):
            stamp = psf.compute_kernel_image(x=100 + grid.x[i], y=50 + grid.y[j]).array
            assert np.abs(stamp - grid.stamps[j, i]).max() < 1e-3 * stamp.max()


def test_stellar_image_is_centred_on_the_position():
    psf = psf_from_grid(PsfGrid.constant(gaussian(2.0, 41)), BBOX)
    image = psf.compute_stellar_image(x=300.3, y=250.8)
    yy, xx = np.meshgrid(image.bbox.y.arange, image.bbox.x.arange, indexing="ij")
    truth = np.exp(-((xx - 300.3) ** 2 + (yy - 250.8) ** 2) / (2 * 2.0**2))
    np.testing.assert_allclose(image.array, truth / truth.sum(), atol=1e-3 * truth.max() / truth.sum())


@settings(max_examples=25, deadline=None)
@given(sigma=st.floats(1.5, 5.0), g1=st.floats(-0.2, 0.2))
def test_sigma_is_the_determinant_radius(sigma, g1):
    # A shear keeps the area, hence the determinant.
    assert psf_sigma(gaussian(sigma, 61, g1)) == pytest.approx(sigma, rel=5e-3)


def test_fwhm_of_a_grid_and_of_a_tiny_core():
    assert psf_fwhm(PsfGrid.constant(gaussian(2.0, 41))) == pytest.approx(4.7096, rel=1e-3)
    delta = np.zeros((21, 21))
    delta[10, 10] = 1.0
    assert 0.5 < psf_fwhm(delta) < 2.0


def test_sigma_ignores_faint_wings():
    wide = 0.97 * gaussian(2.0, 101) + 0.03 * gaussian(12.0, 101)
    moments_sigma = np.sqrt((wide * (np.arange(101) - 50) ** 2).sum())
    assert moments_sigma > 2.7
    assert psf_sigma(wide) < 2.1
