"""Trails of what moved during the exposure."""

from __future__ import annotations

__all__ = ("TrailConfig", "TrailPlugin")

import astropy.units as u
import numpy as np
from astropy.table import Column

from lsst.pex.config import RangeField

from ...algorithms.measure.shapes import Moments
from ...algorithms.measure.trail import TrailFits, fit_trail_sources
from .base import MeasurementInputs, MeasurementPlugin, MeasurementPluginConfig, register_plugin
from .shape import ShapeConfig, measure_shapes

# Number of the algorithm in the column trailAlgorithm; the Science Data Model has no list of them.
_VERES = 1


class TrailConfig(MeasurementPluginConfig):
    """Configuration of `TrailPlugin`."""

    minSignificance = RangeField[float](
        doc="A source is tried if it is elongated by so many times the error of its moments.",
        default=4.0,
        min=0.0,
    )
    minLengthFwhm = RangeField[float](
        doc="A source is tried if its moments tell of a trail of this length or more, in FWHM.",
        default=1.0,
        min=0.0,
    )
    maxLengthFwhm = RangeField[float](
        doc="Greatest length, in FWHM; longer trails break into several sources.", default=4.0, min=0.5
    )
    nIterations = RangeField[int](doc="Most steps of a fit.", default=30, min=1)


@register_plugin("trail")
class TrailPlugin(MeasurementPlugin):
    """Fits a line of constant brightness, convolved with the PSF, to elongated sources."""

    ConfigClass = TrailConfig
    order = 2.0

    def measure(self, inputs: MeasurementInputs) -> dict[str, Column]:
        """Measure (see `MeasurementPlugin`)."""
        config, pixels, fits, fwhm = self.config, inputs.difference, inputs.fits, inputs.fwhm
        moments = _moments(inputs)
        trails = fit_trail_sources(
            pixels.image, pixels.weight, pixels.psf, fits, moments,
            half=inputs.half + int(np.ceil(0.5 * config.maxLengthFwhm * fwhm)),
            min_significance=config.minSignificance,
            min_length=config.minLengthFwhm * fwhm,
            max_length=config.maxLengthFwhm * fwhm,
            iterations=config.nIterations,
            residual=inputs.residual,
        )  # fmt: skip
        return _as_columns(inputs, trails)


def _moments(inputs: MeasurementInputs) -> Moments:
    """Return the moments in pixels, those of the plug-in shape if it has run."""
    names = [f"i{name}{suffix}" for suffix in ("", "PSF") for name in ("xx", "xy", "yy")]
    if set(names) <= set(inputs.columns):
        area = np.abs(np.linalg.det(inputs.sky_jacobian))
        return Moments(*(np.asarray(inputs.columns[name]) / area for name in names))
    return measure_shapes(inputs, ShapeConfig())


def _as_columns(inputs: MeasurementInputs, trails: TrailFits) -> dict[str, Column]:
    """Return the fits as columns; positions and angles on the sky."""
    scale = inputs.flux_scale
    place = _sky_errors(inputs.sky_jacobian, trails.x_error, trails.y_error, trails.xy_covariance)
    ends = _sky_covariance(inputs.sky_jacobian, trails.dx_error, trails.dy_error, trails.dxy_covariance)
    vector = np.einsum("nij,nj->ni", inputs.sky_jacobian, np.column_stack([trails.dx, trails.dy]))
    length = np.hypot(*vector.T)
    with np.errstate(invalid="ignore", divide="ignore"):
        along = vector / length[:, None]
        across = np.column_stack([along[:, 1], -along[:, 0]])
        length_error = np.sqrt(np.einsum("ni,nij,nj->n", along, ends, along))
        angle_error = np.rad2deg(np.sqrt(np.einsum("ni,nij,nj->n", across, ends, across)) / length)
    ra, dec = inputs.sky_positions(trails.x, trails.y)
    factor, unit = inputs.error_scale, inputs.flux_unit
    angle = np.mod(np.rad2deg(np.arctan2(vector[:, 0], vector[:, 1])), 180.0)
    edge = inputs.at_edge & trails.tried
    named = {
        "trailFlux": (trails.flux * scale, unit, "Flux of a trailed source on the difference"),
        "trailFluxErr": (trails.flux_error * scale * factor, unit, "Standard error of trailFlux"),
        "trailRa": (ra, u.deg, "Right ascension of the middle of the trail"),
        "trailRaErr": (place[:, 0] * factor, u.deg, "Standard error of trailRa times cos(dec)"),
        "trailDec": (dec, u.deg, "Declination of the middle of the trail"),
        "trailDecErr": (place[:, 1] * factor, u.deg, "Standard error of trailDec"),
        "trailLength": (length, u.arcsec, "Length of the trail"),
        "trailLengthErr": (length_error * factor, u.arcsec, "Standard error of trailLength"),
        "trailAngle": (angle, u.deg, "Bearing of the trail, from north through east, below 180"),
        "trailAngleErr": (angle_error * factor, u.deg, "Standard error of trailAngle"),
        "trailChi2": (trails.chi2, None, "Chi square of the trail"),
        "trailNdata": (trails.n_pixels.astype(np.int32), None, "Pixels in the fit of the trail"),
        "trailAlgorithm": (
            np.where(trails.fitted, _VERES, 0).astype(np.int32), None,
            "1: line convolved with the PSF; 0: not fitted, for want of elongation",
        ),
        "trail_flag_edge": (edge, None, "The trail was fitted at the rim of the image"),
        "trail_flag": (trails.tried & ~trails.fitted, None, "The fit of a trail failed"),
    }  # fmt: skip
    return {name: Column(v, unit=unit_, description=text) for name, (v, unit_, text) in named.items()}


def _sky_covariance(jacobian: np.ndarray, x: np.ndarray, y: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Return covariances of vectors on the sky, arcsec squared, from errors in pixels; ``(N, 2, 2)``."""
    pixel = np.empty((len(x), 2, 2))
    pixel[:, 0, 0], pixel[:, 1, 1] = x**2, y**2
    pixel[:, 0, 1] = pixel[:, 1, 0] = xy
    return jacobian @ pixel @ jacobian.transpose(0, 2, 1)


def _sky_errors(jacobian: np.ndarray, x: np.ndarray, y: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Return errors to the east and north in degrees, ``(N, 2)``."""
    covariance = _sky_covariance(jacobian, x, y, xy)
    return np.sqrt(np.stack([covariance[:, 0, 0], covariance[:, 1, 1]], axis=1)) / 3600.0
