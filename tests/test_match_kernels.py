"""Kernels and PSFs at positions: the forms that are written, and the grids that algorithms see."""

import matching_stars as stars
import numpy as np
import pytest
from lsst.images import Box
from matching_stars import BASIS, SHAPE

from lsst.twinkles.diffim.adapters.kernels import evaluate_kernel, kernel_from_solution
from lsst.twinkles.diffim.algorithms.match.prefilter import cut_stamps
from lsst.twinkles.diffim.algorithms.match.solve import KernelSolution
from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid


def make_solution(order):
    terms = stars.true_terms(order)
    none = np.zeros(0)
    return KernelSolution(
        basis=BASIS, shape=SHAPE, kernel_order=order, background_order=0, kernel_terms=terms,
        background_terms=np.zeros(1), used=none.astype(bool), chi2=none, flux_residual=none,
        signal_to_noise=none, condition_number=1.0, n_iterations=1,
    )  # fmt: skip


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("start", [(0, 0), (1000, -200)])
def test_serialisable_kernel_is_the_solution(order, start):
    solution, box = make_solution(order), Box.from_shape(SHAPE, start=start)
    kernel = kernel_from_solution(solution, box)
    x, y = stars.positions(8)
    truth = solution.evaluate(x=x, y=y)
    np.testing.assert_allclose(evaluate_kernel(kernel, box, x=x, y=y), truth, atol=1e-12)
    # As lsst.images itself evaluates it, in the frame of the box.
    own = kernel.compute_kernel_image(x=int(x[0]) + start[1], y=int(y[0]) + start[0])
    np.testing.assert_allclose(own.array, truth[0], atol=1e-12)


def test_positions_beyond_the_rim_take_its_value():
    solution, box = make_solution(1), Box.from_shape(SHAPE)
    kernel = kernel_from_solution(solution, box)
    outside = evaluate_kernel(kernel, box, x=np.array([-50.0, 900.0]), y=np.array([300.0, 700.0]))
    rim = solution.evaluate(x=np.array([-0.5, SHAPE[1] - 0.5]), y=np.array([300.0, SHAPE[0] - 0.5]))
    np.testing.assert_allclose(outside, rim, atol=1e-12)


def gaussian(sigma, size=15):
    v, u = np.mgrid[:size, :size] - size // 2
    stamp = np.exp(-(u**2 + v**2) / (2 * sigma**2))
    return stamp / stamp.sum()


def test_psf_grid_is_bilinear():
    stamps = np.array([[gaussian(1.0), gaussian(2.0)], [gaussian(1.5), gaussian(2.5)]])
    psf = PsfGrid(stamps=stamps, x=np.array([10.0, 110.0]), y=np.array([0.0, 50.0]))
    found = psf.evaluate(x=np.array([10.0, 35.0, 500.0]), y=np.array([50.0, 10.0, -20.0]))
    np.testing.assert_allclose(found[0], stamps[1, 0], atol=1e-15)
    lower, upper = (0.75 * row[0] + 0.25 * row[1] for row in stamps)
    np.testing.assert_allclose(found[1], 0.8 * lower + 0.2 * upper, atol=1e-15)
    np.testing.assert_allclose(found[2], stamps[0, 1], atol=1e-15)
    assert psf.evaluate(x=3.0, y=4.0).shape == (15, 15)
    np.testing.assert_allclose(psf.mean(), stamps.mean(axis=(0, 1)))


def test_psf_stamps_are_padded_and_cut_with_unit_sum():
    psf = PsfGrid.constant(gaussian(2.0))
    wide, narrow = psf.padded(21), psf.padded(9)
    assert (wide.size, narrow.size) == (21, 9)
    np.testing.assert_array_equal(wide.stamps[0, 0, 3:-3, 3:-3], psf.stamps[0, 0])
    for grid in (wide, narrow, psf.padded(15)):
        assert grid.stamps.sum() == pytest.approx(1.0)
        assert np.unravel_index(grid.stamps[0, 0].argmax(), (grid.size,) * 2) == (grid.size // 2,) * 2
    with pytest.raises(ValueError, match="must be odd, got 10"):
        psf.padded(10)


@pytest.mark.parametrize(
    ("stamps", "x", "message"),
    [
        (np.ones((1, 1, 4, 4)), [0.0], "odd S"),
        (np.ones((1, 1, 5, 3)), [0.0], "odd S"),
        (np.ones((1, 2, 3, 3)), [0.0], "one stamp per grid point"),
        (np.ones((1, 2, 3, 3)), [1.0, 1.0], "x positions must increase"),
        (np.full((1, 1, 3, 3), np.nan), [0.0], "must be finite"),
    ],
)
def test_psf_grids_that_are_none(stamps, x, message):
    with pytest.raises(ValueError, match=message):
        PsfGrid(stamps=stamps, x=np.array(x), y=np.zeros(1))


def test_stamps_at_the_rim_are_reflected():
    image = np.random.default_rng(1).normal(size=(20, 30))
    padded = np.pad(image, 6, mode="symmetric")
    x, y = np.array([0, 15, 29, 3]), np.array([0, 10, 19, 18])
    for stamp, i, j in zip(cut_stamps(image, x, y, 6), x, y, strict=True):
        np.testing.assert_array_equal(stamp, padded[j : j + 13, i : i + 13])
