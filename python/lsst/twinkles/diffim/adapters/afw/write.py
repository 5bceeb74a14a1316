"""Write exposures in the layout of the LSST stack, without the stack."""

from __future__ import annotations

__all__ = ("write_afw_exposure",)

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np
from astropy.io import fits

from ..psfs import sample_psf
from .headers import make_primary_header
from .output_archive import Column, OutputArchive
from .sky import stack_ast_text

if TYPE_CHECKING:
    from lsst.images import Box, VisitImage

    from ...algorithms.psf_grid import PsfGrid

_LOG = logging.getLogger(__name__)

# Version of the layout of a calibration.
_CALIBRATION_VERSION = 1
_MATH = "lsst.afw.math"
# The stack's own mask planes, at the bits where it has them; others follow.
_STACK_PLANES = (
    "BAD", "SAT", "INTRP", "CR", "EDGE", "DETECTED", "DETECTED_NEGATIVE", "SUSPECT", "NO_DATA",
)  # fmt: skip
_N_BITS = 31
# A PSF is written as polynomials of this order of Chebyshev in each pixel of its images.
_PSF_ORDER = 3
_PSF_TOLERANCE = 1e-4
_KERNEL_COLUMNS = (
    Column("dimensions_x", "1J", "pixel"),
    Column("dimensions_y", "1J", "pixel"),
    Column("center_x", "1J", "pixel"),
    Column("center_y", "1J", "pixel"),
)
_BOX_COLUMNS = tuple(Column(f"bbox_{end}_{axis}", "1J", "pixel") for end in ("min", "max") for axis in "xy")
_CHEBYSHEV_COLUMNS = (
    Column("min_x", "1D", "pixel"),
    Column("min_y", "1D", "pixel"),
    Column("max_x", "1D", "pixel"),
    Column("max_y", "1D", "pixel"),
)


def write_afw_exposure(
    exposure: VisitImage, path: str | Path, *, cards: Mapping[str, Any] | None = None
) -> None:
    """Write an exposure or a difference image such that ``lsst.afw.image.ExposureF.readFits`` opens it.

    Image, mask (planes under the stack's names), variance, celestial coordinates, photometric calibration,
    PSF (a kernel whose pixels are polynomials of position; Gaussians as such), filter, what is known of the
    visit, and the metadata. What only `lsst.images` knows (matching kernel, backgrounds, provenance) is not
    in it.

    Parameters
    ----------
    exposure : `lsst.images.VisitImage`
        The exposure.
    path : `str` or `pathlib.Path`
        File; must not exist.
    cards : `~collections.abc.Mapping`, optional
        More of the metadata: numbers and words for the primary header.

    Raises
    ------
    ValueError
        If it has more mask planes than the stack has bits.
    OSError
        If the file exists or cannot be written.
    """
    archive = OutputArchive()
    numbers = {"FILTER": _put_filter(archive, exposure)}
    if (text := stack_ast_text(exposure.sky_projection)) is not None:
        row = (f"1 SkyWcs 0 {text.lstrip()}".encode("ascii"),)
        numbers["SKYWCS"] = archive.put(
            "SkyWcs", "lsst.afw.geom", (Column("wcs", "1QB", is_array=True),), row
        )
    else:
        _LOG.warning(
            "The celestial coordinates are of no form that the stack has: only a FITS WCS is written."
        )
    if (number := _put_calibration(archive, exposure)) is not None:
        numbers["PHOTOCALIB"] = number
    numbers["PSF"] = _put_psf(archive, exposure)
    primary = fits.PrimaryHDU(header=make_primary_header(exposure, numbers, cards or {}))
    fits.HDUList([primary, *_planes(exposure), *archive.hdus()]).writeto(path, output_verify="silentfix")


# Pixels ----------------------------------------------------------------------


def _planes(exposure: VisitImage) -> list[fits.ImageHDU]:
    """Return the three planes."""
    bits, cards = _mask_bits(exposure)
    unit = exposure.unit
    planes = (
        ("IMAGE", exposure.image.array.astype(np.float32, copy=False), {"BUNIT": unit.to_string()}),
        ("MASK", bits, cards),
        ("VARIANCE", exposure.variance.array.astype(np.float32, copy=False), {"BUNIT": f"{unit}**2"}),
    )
    header = _plane_header(exposure)
    hdus = []
    for name, array, more in planes:
        hdu = fits.ImageHDU(array, header=header.copy())
        hdu.header["EXTTYPE"] = name
        hdu.header["EXTNAME"] = name
        for key, value in more.items():
            hdu.header[key if len(key) <= 8 else f"HIERARCH {key}"] = value
        hdus.append(hdu)
    return hdus


def _plane_header(exposure: VisitImage) -> fits.Header:
    """Return FITS coordinates, and where in the detector's pixels the first one lies."""
    box = exposure.bbox
    wcs = exposure.sky_projection.as_fits_wcs(box, allow_approximation=True)
    header = fits.Header() if wcs is None else wcs.to_header(relax=True)
    header["INHERIT"] = True
    for axis, start in (("1", box.x.start), ("2", box.y.start)):
        header[f"LTV{axis}"] = float(-start)
        header[f"CTYPE{axis}A"] = "LINEAR"
        header[f"CRPIX{axis}A"] = 1.0
        header[f"CRVAL{axis}A"] = float(start)
        header[f"CUNIT{axis}A"] = "PIXEL"
    return header


def _mask_bits(exposure: VisitImage) -> tuple[np.ndarray, dict[str, int]]:
    """Return the mask as integers, and the bit of each plane."""
    from ..masks import stack_plane_name

    mask = exposure.mask
    names = {stack_plane_name(name): name for name in mask.schema.names}
    others = [name for name in names if name not in _STACK_PLANES]
    bits = {name: bit for bit, name in enumerate((*_STACK_PLANES, *others))}
    if len(bits) > _N_BITS:
        used = [name for name in others if mask.get(names[name]).any()]
        bits = {name: bit for bit, name in enumerate((*_STACK_PLANES, *used))}
        if len(bits) > _N_BITS:
            raise ValueError(f"The mask has {len(bits)} planes, and masks of the stack have {_N_BITS} bits.")
    array = np.zeros(exposure.image.array.shape, dtype=np.int32)
    for name, bit in bits.items():
        if name in names:
            array[mask.get(names[name])] |= np.int32(1 << bit)
    return array, {f"MP_{name}": bit for name, bit in bits.items()}


# Components ------------------------------------------------------------------


def _array(name: str, size: int, kind: str) -> Column:
    return Column(name, f"{size}{kind}", is_array=True)


def _put_filter(archive: OutputArchive, exposure: VisitImage) -> int:
    columns = (
        Column("band_exists", "flag"), Column("band", "32A"),
        Column("physical_exists", "flag"), Column("physical", "32A"),
    )  # fmt: skip
    row = (True, exposure.band[:32], True, exposure.physical_filter[:32])
    return archive.put("FilterLabel", "lsst.afw.image", columns, row)


def _put_calibration(archive: OutputArchive, exposure: VisitImage) -> int | None:
    """Add the photometric calibration; a calibrated image has a factor of one."""
    scaling: Any = exposure.photometric_scaling
    corners = (0, 0, -1, -1)  # the empty box of a constant
    if exposure.unit.is_equivalent(u.nJy):
        coefficients = np.array([[exposure.unit.to(u.nJy)]])
    elif scaling is None:
        return None
    else:
        coefficients, box = _chebyshev_coefficients(scaling)
        coefficients = coefficients * scaling.unit.to(u.nJy / exposure.unit)
        if coefficients.size > 1:
            corners = (box.x.min, box.y.min, box.x.max, box.y.max)
    constant, mean = coefficients.size == 1, _mean_over_box(coefficients)
    columns = (
        Column("order_x", "1J"),
        *_BOX_COLUMNS,
        _array("coefficients", coefficients.size, "D"),
    )
    row = (coefficients.shape[1] - 1, *corners, coefficients.ravel())
    field = archive.put("ChebyshevBoundedField", _MATH, columns, row)
    columns = (
        Column("calibrationMean", "1D", "count"), Column("calibrationErr", "1D", "count"),
        Column("isConstant", "flag"), Column("field", "1J"), Column("version", "1J"),
    )  # fmt: skip
    return archive.put("PhotoCalib", "", columns, (mean, 0.0, constant, field, _CALIBRATION_VERSION))


def _chebyshev_coefficients(field: Any) -> tuple[np.ndarray, Box]:
    """Return a field as Chebyshev coefficients ``[y, x]`` over its box."""
    from lsst.images.fields import ChebyshevField

    from .photometry import fit_chebyshev

    if not isinstance(field, ChebyshevField):
        field = fit_chebyshev(lambda x, y: np.asarray(field(x=x, y=y)), field.bounds.bbox)
    return np.asarray(field.coefficients, dtype=float), field.bounds.bbox


def _mean_over_box(coefficients: np.ndarray) -> float:
    """Return the mean of a Chebyshev series over its box, from the integrals of its terms."""
    means = [
        0.0 if n % 2 else 1.0 / (1.0 - n * n) for n in range(max(coefficients.shape))
    ]  # of T_n over [-1, 1]
    return float(np.array(means[: coefficients.shape[0]]) @ coefficients @ means[: coefficients.shape[1]])


def _put_psf(archive: OutputArchive, exposure: VisitImage) -> int:
    """Add the PSF."""
    from lsst.images.psfs import GaussianPointSpreadFunction

    psf, box = exposure.psf, exposure.bbox
    if isinstance(psf, GaussianPointSpreadFunction):
        side = psf.kernel_bbox.x.size
        columns = (*_KERNEL_COLUMNS[:2], Column("sigma", "1D", "pixel"))
        return archive.put("GaussianPsf", "lsst.afw.detection", columns, (side, side, psf.sigma))
    grid = sample_psf(psf, box)
    centre = (box.x.min + box.x.max) / 2, (box.y.min + box.y.max) / 2
    kernel = _put_varying_kernel(archive, grid, box) if grid.stamps.shape[:2] != (1, 1) else None
    if kernel is None:
        kernel = _put_fixed_kernel(archive, grid.stamps[0, 0])
    columns = (
        Column("kernel", "1J"),
        Column("averagePosition_x", "1D", "pixel"),
        Column("averagePosition_y", "1D", "pixel"),
    )
    return archive.put("KernelPsf", "lsst.meas.algorithms", columns, (kernel, *centre))


def _put_fixed_kernel(archive: OutputArchive, image: np.ndarray) -> int:
    height, width = image.shape
    columns = (*_KERNEL_COLUMNS, _array("image", image.size, "D"))
    row = (width, height, (width - 1) // 2, (height - 1) // 2, image.ravel())
    return archive.put("FixedKernel", _MATH, columns, row)


def _put_varying_kernel(archive: OutputArchive, grid: PsfGrid, box: Box) -> int:
    """Add a kernel whose pixels are Chebyshev series of position, fitted to the stamps of a grid."""
    corners = (box.x.min - 0.5, box.y.min - 0.5, box.x.max + 0.5, box.y.max + 0.5)
    terms = [(i - j, j) for i in range(_PSF_ORDER + 1) for j in range(i + 1)]  # in the stack's order
    terms = [(i, j) for i, j in terms if i < len(grid.x) and j < len(grid.y)]
    u_x = (2.0 * (grid.x + box.x.start) - corners[0] - corners[2]) / (corners[2] - corners[0])
    u_y = (2.0 * (grid.y + box.y.start) - corners[1] - corners[3]) / (corners[3] - corners[1])
    basis_x = np.polynomial.chebyshev.chebvander(u_x, _PSF_ORDER)
    basis_y = np.polynomial.chebyshev.chebvander(u_y, _PSF_ORDER)
    design = np.stack([np.outer(basis_y[:, j], basis_x[:, i]).ravel() for i, j in terms], axis=1)
    values = grid.stamps.reshape(len(design), -1)
    solution = np.linalg.lstsq(design, values, rcond=None)[0]
    error = np.abs(design @ solution - values).max() / values.max()
    if error > _PSF_TOLERANCE:
        _LOG.warning("The PSF is written as polynomials that differ by up to %.1e of its peak.", error)
    number_of_terms = (_PSF_ORDER + 1) * (_PSF_ORDER + 2) // 2
    columns = (_array("coefficients", number_of_terms, "D"), *_CHEBYSHEV_COLUMNS)
    functions = []
    for i, j in terms:
        order = i + j
        unit = np.zeros(number_of_terms)
        unit[order * (order + 1) // 2 + j] = 1.0
        functions.append(archive.put("Chebyshev1Function2D", _MATH, columns, (unit, *corners)))
    images = [_put_fixed_kernel(archive, row.reshape(grid.size, grid.size)) for row in solution]
    n, side, half = len(terms), grid.size, grid.size // 2
    parts = (_array("spatialfunctions", n, "J"), _array("components", n, "J"))
    row = (side, side, half, half, np.array(functions), np.array(images))
    return archive.put("LinearCombinationKernel", _MATH, (*_KERNEL_COLUMNS, *parts), row)
