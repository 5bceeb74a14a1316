"""The catalogue of DIA sources: names, units and descriptions.

Names, units and types are those of ``DiaSource`` in Rubin's Science Data Model (dm.lsst.org/sdm_schemas).
Columns of other stages are not there: ``diaObjectId``, ``ssObjectId`` and ``ssObjectReassocTimeMjdTai`` come
with the association, ``timeProcessedMjdTai`` and ``timeWithdrawnMjdTai`` with the database. Fluxes are in nJy
if the science exposure is calibrated, and in its pixel unit if not. What is of our own is in `OWN_COLUMNS`.
"""

from __future__ import annotations

__all__ = ("OWN_COLUMNS", "calibration_at", "flux_calibration", "make_dia_source_table", "sky_jacobian")

from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from astropy.table import Column, Table

from ..adapters.metadata import visit_number
from ..algorithms.measure.psf_fit import PsfFits
from .plugins.base import MeasurementInputs

if TYPE_CHECKING:
    from astro_metadata_translator import ObservationInfo

    from lsst.images import DifferenceImage, SkyProjection

OWN_COLUMNS = (
    "x_y_Cov", "significance", "footprint", "nPeaks", "isMerged", "isSplit", "footprintArea", "blendSize",
    "dipoleLengthErr", "dipoleAngleErr", "dipoleMoment", "dipoleMomentErr", "forced_template_PsfFlux_flag",
    "forced_template_PsfFlux_flag_edge", "forced_template_PsfFlux_flag_noGoodPixels",
    "pixelFlags_badCenter", "pixelFlags_edgeCenter",
    *(
        f"pixelFlags_{plane}{where}"
        for plane in (
            "clipped", "crosstalk", "high_variance", "inexact_psf", "injected_core", "injected_core_template",
            "itl_dip", "partly_vignetted", "rejected", "saturated_template", "sensor_edge", "spike",
            "unmasked_nan", "vignetted",
        )
        for where in ("", "Center")
    ),
)  # fmt: skip
"""Columns of ours, which the Science Data Model does not have (those of further plug-ins aside)."""

# Other floats are of single precision, as in the Science Data Model.
_DOUBLE = {"midpointMjdTai", "ra", "dec", "trailRa", "trailDec"}


def make_dia_source_table(inputs: MeasurementInputs, *, id_base: int) -> Table:
    """Bring measurements into the form of the catalogue.

    Parameters
    ----------
    inputs : `~lsst.twinkles.diffim.tasks.plugins.MeasurementInputs`
        Detections, positions and fluxes on the difference, and the columns of the plug-ins.
    id_base : `int`
        First ``diaSourceId``.

    Returns
    -------
    table : `astropy.table.Table`
        One row for each source; every column has a description and, if it has a dimension, a unit.
    """
    table = Table()
    difference, sources, fits = inputs.exposure, inputs.detections, inputs.fits
    _add_identity(table, difference, sources, id_base)
    _add_positions(table, difference, fits)
    _add_fluxes(table, inputs)
    for name, text in (
        ("significance", "Signed significance of the peak on the score image"),
        ("footprint", "Number of the footprint in this image; sources that share it touch"),
        ("nPeaks", "Number of sources in the footprint"),
        ("isMerged", "The footprint has sources of both signs"),
        ("isSplit", "One of two sources that were found under one peak"),
    ):
        values = np.asarray(sources[name]) if name in sources.colnames else np.zeros(len(sources), bool)
        table[name] = Column(values, description=text)
    table["blendSize"] = Column(
        fits.group_size.astype(np.int32), description="Number of sources that were fitted at once"
    )
    table["footprintArea"] = Column(
        np.asarray(sources["footprintArea"]), unit=u.pix**2, description="Pixels of it"
    )
    table["bboxSize"] = Column(
        np.asarray(sources["bboxSize"], np.int32), unit=u.pix, description="Longer side of its bounding box"
    )
    for name, column in inputs.columns.items():
        table[name] = column
    for name in table.colnames:
        if table[name].dtype == np.float64 and name not in _DOUBLE:
            table[name] = table[name].astype(np.float32)
    assert len(table) == len(sources)
    return table


def _add_identity(table: Table, difference: DifferenceImage, sources: Table, id_base: int) -> None:
    """Add who, where and when; a footprint's brightest source is the parent of its others."""
    info, n = difference.obs_info, len(sources)
    ids = id_base + np.arange(n, dtype=np.int64)
    parents = np.zeros(n, dtype=np.int64)
    brightest: dict[int, int] = {}
    for i in np.argsort(-np.abs(np.asarray(sources["significance"])), kind="stable"):
        number = int(sources["footprint"][i])
        if number in brightest:
            parents[i] = brightest[number]
        else:
            brightest[number] = int(ids[i])
    visit = visit_number(difference)
    table["diaSourceId"] = Column(ids, description="Unique identifier")
    table["visit"] = Column(np.full(n, visit if visit is not None else 0, np.int64), description="Visit")
    table["detector"] = Column(
        np.full(n, info.detector_num if info.detector_num is not None else 0, np.int16),
        description="Detector",
    )
    table["band"] = Column(
        np.full(n, difference.band, dtype="U8"), description="Band of the science exposure"
    )
    table["parentDiaSourceId"] = Column(
        parents, description="Most significant source of the same footprint; 0 for that one itself"
    )
    middle, duration = exposure_times(info)
    table["midpointMjdTai"] = Column(np.full(n, middle), unit=u.d, description="Middle of the exposure, TAI")
    table["exposureTime"] = Column(np.full(n, duration), unit=u.s, description="Exposure time")


def exposure_times(info: ObservationInfo) -> tuple[float, float]:
    """Return the middle of an exposure (MJD, TAI) and its length (s); NaN where it does not say."""
    middle, duration = np.nan, np.nan
    if info.datetime_begin is not None and info.datetime_end is not None:
        middle = 0.5 * (info.datetime_begin.tai.mjd + info.datetime_end.tai.mjd)
    if info.exposure_time is not None:
        duration = info.exposure_time.to_value(u.s)
    return middle, duration


def _add_positions(table: Table, difference: DifferenceImage, fits: PsfFits) -> None:
    """Add pixel and sky positions, with errors through the local affine part of the projection."""
    box = difference.bbox
    x, y = fits.x + box.x.start, fits.y + box.y.start
    ra, dec = _sky_degrees(difference.sky_projection, x, y)
    jacobian = _degrees_by_pixel(difference.sky_projection, x, y)
    pixel = np.empty((len(x), 2, 2))
    pixel[:, 0, 0], pixel[:, 1, 1] = fits.x_error**2, fits.y_error**2
    pixel[:, 0, 1] = pixel[:, 1, 0] = fits.xy_covariance
    jacobian[:, 0] *= np.cos(np.deg2rad(dec))[:, None]  # errors are of angles on the sky
    covariance = jacobian @ pixel @ jacobian.transpose(0, 2, 1)
    for name, values, unit, text in (
        ("ra", ra, u.deg, "Right ascension (ICRS)"),
        (
            "raErr",
            np.sqrt(covariance[:, 0, 0]),
            u.deg,
            "Standard error of ra times cos(dec)",
        ),
        ("dec", dec, u.deg, "Declination (ICRS)"),
        ("decErr", np.sqrt(covariance[:, 1, 1]), u.deg, "Standard error of dec"),
        ("ra_dec_Cov", covariance[:, 0, 1], u.deg**2, "Covariance of ra times cos(dec) and dec"),
        ("x", x, u.pix, "Centroid along x; the centre of the first pixel of a CCD is 0"),
        ("xErr", fits.x_error, u.pix, "Standard error of x"),
        ("y", y, u.pix, "Centroid along y"),
        ("yErr", fits.y_error, u.pix, "Standard error of y"),
        ("x_y_Cov", fits.xy_covariance, u.pix**2, "Covariance of x and y"),
    ):
        table[name] = Column(values, unit=unit, description=text)
    table["centroid_flag"] = Column(
        fits.failed, description="No centroid found; the position is that of the peak"
    )


def _sky_degrees(projection: SkyProjection, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return right ascension and declination in degrees."""
    if len(x) == 0:
        return np.empty(0), np.empty(0)  # the transform refuses to work on nothing
    sky = projection.pixel_to_sky(x=x, y=y)
    return np.asarray(sky.ra.deg), np.asarray(sky.dec.deg)


def _degrees_by_pixel(projection: SkyProjection, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return derivatives of right ascension and declination with respect to x and y, ``(N, 2, 2)``."""
    jacobian = np.empty((len(x), 2, 2))
    for k, (dx, dy) in enumerate(((0.5, 0.0), (0.0, 0.5))):
        high, low = _sky_degrees(projection, x + dx, y + dy), _sky_degrees(projection, x - dx, y - dy)
        jacobian[:, 0, k] = np.mod(high[0] - low[0] + 180.0, 360.0) - 180.0
        jacobian[:, 1, k] = high[1] - low[1]
    return jacobian


def sky_jacobian(difference: DifferenceImage, fits: PsfFits) -> np.ndarray:
    """Return arcseconds to the east and north by pixels along x and y at each source, ``(N, 2, 2)``."""
    box = difference.bbox
    x, y = fits.x + box.x.start, fits.y + box.y.start
    jacobian = 3600.0 * _degrees_by_pixel(difference.sky_projection, x, y)
    _, dec = _sky_degrees(difference.sky_projection, x, y)
    jacobian[:, 0] *= np.cos(np.deg2rad(dec))[:, None]
    return jacobian


def _add_fluxes(table: Table, inputs: MeasurementInputs) -> None:
    fits, scale, unit = inputs.fits, inputs.flux_scale, inputs.flux_unit
    table["isNegative"] = Column(
        np.asarray(inputs.detections["isNegative"]), description="Detected as negative"
    )
    table["snr"] = Column(fits.flux / fits.flux_error, description="psfFlux over its error")
    table["psfFlux"] = Column(fits.flux * scale, unit=unit, description="PSF flux on the difference")
    table["psfFluxErr"] = Column(fits.flux_error * scale, unit=unit, description="Standard error of psfFlux")
    table["psfLnL"] = Column(
        -0.5 * fits.chi2, description="Natural logarithm of the likelihood, but for a constant of the pixels"
    )
    table["psfChi2"] = Column(fits.chi2, description="Chi square of the PSF fit (of all sources of a blend)")
    table["psfNdata"] = Column(fits.n_pixels.astype(np.int32), description="Pixels in the PSF fit")
    table["psfFlux_flag"] = Column(~np.isfinite(fits.flux), description="No PSF flux")
    table["psfFlux_flag_edge"] = Column(
        inputs.at_edge, description="The fitted square reaches beyond the image"
    )
    table["psfFlux_flag_noGoodPixels"] = Column(
        fits.n_pixels == 0, description="No pixel near the position has data"
    )


def flux_calibration(difference: DifferenceImage, fits: PsfFits) -> tuple[np.ndarray, u.UnitBase]:
    """Return factors, ``(N,)``, and unit that turn fluxes in pixel units into those of the table."""
    return calibration_at(difference, fits.x, fits.y)


def calibration_at(
    difference: DifferenceImage, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, u.UnitBase]:
    """Return the same for positions in pixels of the array."""
    unit = difference.unit
    if unit.is_equivalent(u.nJy):
        return np.full(len(x), float(unit.to(u.nJy))), u.nJy
    scaling = difference.photometric_scaling
    if scaling is None or scaling.unit is None or not (unit * scaling.unit).is_equivalent(u.nJy):
        return np.ones(len(x)), unit
    area, box = scaling.bounds.bbox, difference.bbox
    values = scaling(
        x=np.clip(x + box.x.start, area.x.start - 0.5, area.x.stop - 0.5),
        y=np.clip(y + box.y.start, area.y.start - 0.5, area.y.stop - 0.5),
    )
    return np.asarray(values, float) * float((unit * scaling.unit).to(u.nJy)), u.nJy
