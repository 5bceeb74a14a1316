"""Between the point-spread functions of `lsst.images` and sampled grids of stamps.

The algorithms see a PSF as a `~lsst.twinkles.diffim.algorithms.psf_grid.PsfGrid`; files hold it as an
`lsst.images.psfs.PointSpreadFunction`. Both directions are here.
"""

from __future__ import annotations

__all__ = (
    "InvalidPsfError",
    "neighbour_ratio",
    "psf_from_grid",
    "psf_fwhm",
    "psf_sigma",
    "sample_psf",
    "serialisable_psf",
    "square_odd",
    "with_serialisable_psf",
)

import logging
import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import distance_transform_edt

from ..algorithms.psf_grid import PsfGrid
from .lazy_imports import defer_import

if TYPE_CHECKING:
    from lsst.images import Box, VisitImage
    from lsst.images.psfs import PiffWrapper, PointSpreadFunction

_LOG = logging.getLogger(__name__)

defer_import("treegp")  # before lsst.images imports Piff to read a PSF

FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))

# Two stamps that differ by less than this fraction of the peak are the same PSF.
_CONSTANT_TOLERANCE = 1e-6
# A model is replaced by one of these orders, the first that is good to this fraction of the peak.
_SERIALISABLE_ORDERS = (2, 3, 4)
_SERIALISABLE_TOLERANCE = 1e-4
_N_BETWEEN = 5  # positions an axis at which that is looked up


class InvalidPsfError(ValueError):
    """A PSF is missing or cannot be evaluated where it is needed.

    Attributes
    ----------
    x, y : `float` or `None`
        Position in the pixel frame of the exposure at which it failed.
    """

    def __init__(self, message: str, *, x: float | None = None, y: float | None = None) -> None:
        super().__init__(message)
        self.x = x
        self.y = y


def sample_psf(
    psf: PointSpreadFunction | None, bbox: Box, *, grid: int = 6, size: int | None = None
) -> PsfGrid:
    """Sample a PSF on a regular grid of positions that spans a box.

    Parameters
    ----------
    psf : `lsst.images.psfs.PointSpreadFunction`
        PSF model; its coordinates are those of ``bbox``.
    bbox : `lsst.images.Box`
        Pixels over which the PSF is wanted.
    grid : `int`, optional
        Number of nodes along each axis; a single one stands in the middle of the box. A PSF that is the
        same at the corners and the centre gets one node.
    size : `int`, optional
        Side of the stamps (odd); the size of the model's own stamps when not given.

    Returns
    -------
    samples : `PsfGrid`
        Unit-sum stamps. Its positions are array coordinates: the first pixel of ``bbox`` is (0, 0).

    Raises
    ------
    InvalidPsfError
        If there is no PSF, it is valid nowhere in ``bbox``, or it has pixels that are not finite or a sum
        that is not positive.

    Notes
    -----
    Nodes outside the bounds of the model (the gaps of a coadd) take the stamp of the nearest node that
    has one.
    """
    if psf is None:
        raise InvalidPsfError(
            "The exposure has no PSF; read it with read_exposure(), which measures one from the stars."
        )
    if grid < 1:
        raise ValueError(f"grid must be at least 1 node an axis, got {grid}.")
    xs, ys = _node_positions(psf, bbox, grid)
    if _is_constant(psf, xs, ys):
        stamp = _evaluate(psf, x=float(np.mean(xs)), y=float(np.mean(ys)))
        assert stamp is not None, "checked by _is_constant"
        samples = PsfGrid.constant(stamp)
    else:
        stamps = _fill_gaps([[_evaluate(psf, x=x, y=y) for x in xs] for y in ys], bbox)
        samples = PsfGrid(stamps=stamps, x=xs - bbox.x.start, y=ys - bbox.y.start)
    return samples if size is None or size == samples.size else samples.padded(size)


def psf_from_grid(grid: PsfGrid, bbox: Box, *, order: int = 2) -> PiffWrapper:
    """Make a PSF that `lsst.images` can serialise from sampled stamps.

    The stamps become the parameters of a Piff ``PixelGrid`` of scale one pixel, each a polynomial of the
    position, fitted by least squares to the nodes.

    Parameters
    ----------
    grid : `PsfGrid`
        Unit-sum stamps at array coordinates of ``bbox``.
    bbox : `lsst.images.Box`
        Pixels over which the PSF is valid.
    order : `int`, optional
        Highest total order of the polynomial; less where the grid has too few nodes along an axis.

    Returns
    -------
    psf : `lsst.images.psfs.PiffWrapper`
        PSF in the pixel frame of ``bbox``.
    """
    import galsim
    import piff

    from lsst.images.psfs import PiffWrapper

    interp = piff.BasisPolynomial(order=max(order, 0))
    interp.q = _polynomial_coefficients(grid, interp._mask, x0=bbox.x.start, y0=bbox.y.start)
    psf = piff.SimplePSF(piff.PixelGrid(scale=1.0, size=grid.size, interp="Lanczos(11)"), interp)
    psf.wcs = {0: galsim.PixelScale(1.0)}
    psf.pointing = None
    psf.stars = []
    return PiffWrapper(psf, bbox, grid.size)


def serialisable_psf(psf: PointSpreadFunction, bbox: Box) -> PointSpreadFunction:
    """Return a PSF as a model that `lsst.images` can write.

    Parameters
    ----------
    psf : `lsst.images.psfs.PointSpreadFunction`
        Any model.
    bbox : `lsst.images.Box`
        Pixels over which it is wanted.

    Returns
    -------
    psf : `lsst.images.psfs.PointSpreadFunction`
        The model itself if it can be written, else a Piff PSF fitted to its images (`psf_from_grid`). Where
        that differs by more than 1e-4 of the peak, as at the seams of a coadd, a warning says by how much.
    """
    from lsst.images.psfs import GaussianPointSpreadFunction, PiffWrapper, PSFExWrapper

    if psf is None or isinstance(psf, GaussianPointSpreadFunction | PiffWrapper | PSFExWrapper):
        return psf
    grid = sample_psf(psf, bbox)
    between = sample_psf(psf, bbox, grid=_N_BETWEEN, size=grid.size)
    errors: dict[int, float] = {}
    models: dict[int, PiffWrapper] = {}
    for order in _SERIALISABLE_ORDERS:
        models[order] = psf_from_grid(grid, bbox, order=order)
        drawn = sample_psf(models[order], bbox, grid=_N_BETWEEN, size=grid.size)
        errors[order] = _largest_difference(drawn, between)
        if errors[order] < _SERIALISABLE_TOLERANCE:
            break
    best = min(errors, key=errors.__getitem__)
    if errors[best] >= _SERIALISABLE_TOLERANCE:
        _LOG.warning(
            "The PSF, a %s, is written as a smooth model that differs from it by up to %.1e of its peak.",
            type(psf).__name__,
            errors[best],
        )
    return models[best]


def with_serialisable_psf(exposure: VisitImage) -> VisitImage:
    """Return an exposure that `lsst.images` can write (see `serialisable_psf`); itself if it can be."""
    psf = serialisable_psf(exposure.psf, exposure.bbox)
    if psf is exposure.psf:
        return exposure
    writable = exposure[...]  # shares the pixels
    writable.psf = psf
    return writable


def _largest_difference(first: PsfGrid, second: PsfGrid) -> float:
    """Return the largest difference of two grids in units of the peak; a constant one holds everywhere."""
    a, b = np.broadcast_arrays(first.stamps, second.stamps)
    return float(np.abs(a - b).max() / b.max())


def psf_sigma(psf: PsfGrid | np.ndarray) -> float:
    """Return the Gaussian-equivalent width of a PSF in pixels.

    Parameters
    ----------
    psf : `PsfGrid` or `numpy.ndarray`, ``(S, S)``
        A grid is represented by its mean stamp.

    Returns
    -------
    sigma : `float`
        Determinant radius from adaptive moments, the elliptical Gaussian weight of which is matched to the
        PSF (Hirata & Seljak 2003, doi:10.1046/j.1365-8711.2003.06683.x); faint wings hardly count. Where the
        iteration fails (a core of less than about a pixel, deep negative rings) it comes from the area
        above half of the maximum.
    """
    import galsim

    stamp = psf.mean() if isinstance(psf, PsfGrid) else np.asarray(psf, dtype=float)
    moments = galsim.hsm.FindAdaptiveMom(galsim.Image(stamp, scale=1.0), strict=False)
    if not moments.error_message and 0 < moments.moments_sigma < stamp.shape[0]:
        return float(moments.moments_sigma)
    return _half_maximum_diameter(stamp) / FWHM_PER_SIGMA


def psf_fwhm(psf: PsfGrid | np.ndarray) -> float:
    """Return the full width at half maximum, in pixels, of the Gaussian as wide as a PSF (`psf_sigma`)."""
    return FWHM_PER_SIGMA * psf_sigma(psf)


def neighbour_ratio(psf: PsfGrid) -> float:
    """Return how bright the neighbours of a star's brightest pixel are at least.

    Parameters
    ----------
    psf : `PsfGrid`
        PSF, centred on a pixel, where the ratio is least.

    Returns
    -------
    ratio : `float`
        Mean of the fainter of the two pairs of opposite neighbours over the centre, least of all nodes.
    """
    c = psf.size // 2
    stamps = psf.stamps.reshape(-1, psf.size, psf.size)
    pairs = stamps[:, c, c - 1] + stamps[:, c, c + 1], stamps[:, c - 1, c] + stamps[:, c + 1, c]
    return max(float((np.minimum(*pairs) / 2 / stamps[:, c, c]).min()), 0.0)


def _node_positions(psf: PointSpreadFunction, bbox: Box, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the node coordinates along x and y, within both the box and the bounds of the PSF."""
    from lsst.images import NoOverlapError

    try:
        area = bbox.intersection(psf.bounds.bbox).bbox
    except NoOverlapError as error:
        raise InvalidPsfError(
            f"The PSF is valid only in {psf.bounds.bbox}, which does not overlap the pixels {bbox}; "
            "give an exposure whose PSF belongs to its pixels."
        ) from error
    if grid == 1:  # where linspace would take the lower corner
        return np.array([(area.x.min + area.x.max) / 2]), np.array([(area.y.min + area.y.max) / 2])
    return (
        np.linspace(area.x.min, area.x.max, min(grid, area.x.size)),
        np.linspace(area.y.min, area.y.max, min(grid, area.y.size)),
    )


def _is_constant(psf: PointSpreadFunction, xs: np.ndarray, ys: np.ndarray) -> bool:
    """Tell whether the PSF is the same at the corners and the centre of the nodes."""
    from lsst.images.psfs import GaussianPointSpreadFunction

    if isinstance(psf, GaussianPointSpreadFunction):
        return True
    middle = _evaluate(psf, x=float(np.mean(xs)), y=float(np.mean(ys)))
    if middle is None:
        return False
    for x in {xs[0], xs[-1]}:
        for y in {ys[0], ys[-1]}:
            stamp = _evaluate(psf, x=x, y=y)
            if stamp is None or np.abs(stamp - middle).max() > _CONSTANT_TOLERANCE * middle.max():
                return False
    return True


def _evaluate(psf: PointSpreadFunction, *, x: float, y: float) -> np.ndarray | None:
    """Return the unit-sum stamp ``(S, S)`` with odd S at a position, `None` in a gap of the model."""
    from lsst.images import BoundsError

    try:
        stamp = np.array(psf.compute_kernel_image(x=float(x), y=float(y)).array, dtype=float)
    except BoundsError:
        return None
    total = stamp.sum()
    if not np.isfinite(stamp).all() or not total > 0:
        raise InvalidPsfError(
            f"The PSF at x={x:.1f}, y={y:.1f} has {np.count_nonzero(~np.isfinite(stamp))} of {stamp.size} "
            f"pixels not finite and the sum {total}; it has to be finite with a positive sum. Remove the PSF "
            "from the file to have it measured from the stars.",
            x=x,
            y=y,
        )
    return square_odd(stamp) / total


def square_odd(stamp: np.ndarray) -> np.ndarray:
    """Pad a stamp with zeros to a square of odd side; the centre pixel ``n // 2`` becomes the middle."""
    height, width = stamp.shape
    half = max(height // 2, width // 2)
    return np.pad(
        stamp,
        (
            (half - height // 2, half - (height - 1 - height // 2)),
            (half - width // 2, half - (width - 1 - width // 2)),
        ),
    )


def _fill_gaps(nodes: list[list[np.ndarray | None]], bbox: Box) -> np.ndarray:
    """Return ``(Gy, Gx, S, S)`` with missing nodes taken from the nearest that is there."""
    missing = np.array([[stamp is None for stamp in row] for row in nodes])
    if missing.all():
        raise InvalidPsfError(
            f"The PSF cannot be evaluated at any of {missing.size} positions in {bbox}; "
            "give an exposure whose PSF belongs to its pixels."
        )
    nearest = distance_transform_edt(missing, return_distances=False, return_indices=True)
    present = [[nodes[j][i] for j, i in zip(*rows, strict=True)] for rows in zip(*nearest, strict=True)]
    return np.array(present)


def _polynomial_coefficients(grid: PsfGrid, mask: np.ndarray, *, x0: int, y0: int) -> np.ndarray:
    """Fit each stamp pixel with monomials ``x^i y^j`` in the absolute frame.

    Solved in coordinates scaled to [-1, 1], as powers of raw pixel positions are badly conditioned; the
    coefficients are then expanded exactly.

    Returns
    -------
    coefficients : `numpy.ndarray`, ``(S * S, T)``
        Columns in the order of the true elements of ``mask[i, j]``.
    """
    ii, jj = np.nonzero(mask)
    used = (ii < len(grid.x)) & (jj < len(grid.y))
    centre_x, half_x = _centre_and_half(grid.x)
    centre_y, half_y = _centre_and_half(grid.y)
    yy, xx = np.meshgrid((grid.y - centre_y) / half_y, (grid.x - centre_x) / half_x, indexing="ij")
    design = xx.ravel()[:, None] ** ii[used] * yy.ravel()[:, None] ** jj[used]
    values = grid.stamps.reshape(len(design), -1)
    solution = np.linalg.lstsq(design, values, rcond=None)[0]
    powers = np.zeros((len(ii), values.shape[1]))
    for i, j, row in zip(ii[used], jj[used], solution, strict=True):
        in_x = _expand_power(int(i), centre_x + x0, half_x)
        in_y = _expand_power(int(j), centre_y + y0, half_y)
        for term, (p, q) in enumerate(zip(ii, jj, strict=True)):
            if p <= i and q <= j:
                powers[term] += in_x[p] * in_y[q] * row
    return powers.T.copy()


def _centre_and_half(nodes: np.ndarray) -> tuple[float, float]:
    """Return the middle and half extent (1 for a single node) of node positions."""
    return float(nodes[0] + nodes[-1]) / 2, float(nodes[-1] - nodes[0]) / 2 or 1.0


def _expand_power(power: int, centre: float, half: float) -> np.ndarray:
    """Return the monomial coefficients of ``((x - centre) / half) ** power``."""
    return np.polynomial.polynomial.polypow([-centre / half, 1.0 / half], power)


def _half_maximum_diameter(stamp: np.ndarray) -> float:
    """Return the diameter of the circle of the area above half of the maximum, linear between pixels."""
    from scipy.ndimage import zoom

    factor = 8
    fine = zoom(stamp, factor, order=3, mode="grid-constant", grid_mode=True)
    area = np.count_nonzero(fine > 0.5 * fine.max()) / factor**2
    return 2.0 * math.sqrt(area / math.pi)
