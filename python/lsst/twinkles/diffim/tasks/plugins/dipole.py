"""Dipoles: static sources that are not at the same place in both images."""

from __future__ import annotations

__all__ = ("DipoleConfig", "DipolePlugin")

import astropy.units as u
import numpy as np
from astropy.table import Column

from lsst.pex.config import RangeField

from ...algorithms.measure.dipole import DipoleFits, fit_dipole_sources
from .base import (
    MeasurementInputs,
    MeasurementPlugin,
    MeasurementPluginConfig,
    register_plugin,
)

# Least signal-to-noise ratio for which the bias of a moment is corrected for.
_LEAST_SNR = 3.0


class DipoleConfig(MeasurementPluginConfig):
    """Configuration of `DipolePlugin`."""

    relWeight = RangeField[float](
        doc="Weight of science image and template relative to the difference; 1: that of their noise.",
        default=1.0,
        min=0.0,
    )
    partnerRadiusFwhm = RangeField[float](
        doc="Farthest that the two lobes may have been detected from each other, in FWHM.",
        default=2.0,
        min=0.0,
    )
    maxFitSeparationFwhm = RangeField[float](
        doc="Greatest separation of the lobes that the fit allows, in FWHM.", default=2.0, min=0.1
    )
    maxSeparation = RangeField[float](
        doc="Greatest separation of the lobes of what is called a dipole, in FWHM; two sources of opposite "
        "sign side by side are farther apart.",
        default=0.3,
        min=0.0,
    )
    minSn = RangeField[float](
        doc="Least signal-to-noise ratio of a dipole (root of what it takes from chi square).",
        default=5.0,
        min=0.0,
    )
    maxFluxRatio = RangeField[float](
        doc="Greatest share of one lobe in what both have in the difference.", default=0.65, min=0.5, max=1.0
    )
    nIterations = RangeField[int](doc="Most steps of a fit.", default=25, min=1)


@register_plugin("dipole")
class DipolePlugin(MeasurementPlugin):
    """Fits dipoles to difference, science image and template at once, and tells them from point sources.

    A source is called a dipole if, on the difference, a dipole explains more than a point source does, is
    significant, its lobes are of about equal flux (``maxFluxRatio``), and their separation, as difference and
    direct images have it, is small (``maxSeparation``). Both detections of a dipole get its fit.
    """

    ConfigClass = DipoleConfig
    order = 2.0
    uses_direct_images = True

    def measure(self, inputs: MeasurementInputs) -> dict[str, Column]:
        """Measure (see `MeasurementPlugin`)."""
        config, fwhm = self.config, inputs.fwhm
        assert inputs.science is not None and inputs.template is not None, "uses_direct_images is set"
        pixels = (inputs.difference, inputs.science, inputs.template)
        dipoles = fit_dipole_sources(
            tuple(p.image for p in pixels),  # type: ignore[arg-type]
            tuple(p.weight for p in pixels),  # type: ignore[arg-type]
            tuple(p.psf for p in pixels),  # type: ignore[arg-type]
            inputs.fits,
            np.isfinite(inputs.fits.flux),
            half=inputs.half,
            fwhm=fwhm,
            partner_radius=config.partnerRadiusFwhm * fwhm,
            max_separation=config.maxFitSeparationFwhm * fwhm,
            relative_weight=config.relWeight,
            iterations=config.nIterations,
            residual=inputs.residual,
            # The noise of a convolved image is correlated.
            weight_factors=(inputs.science.noise_factor**-2, inputs.template.noise_factor**-2),
        )
        return _as_columns(inputs, dipoles) | {
            "isDipole": Column(self._classify(dipoles, fwhm), description="Classified as a dipole"),
            "dipoleFitAttempted": Column(dipoles.attempted, description="A dipole was fitted"),
        }

    def _classify(self, dipoles: DipoleFits, fwhm: float) -> np.ndarray:
        """Tell which are dipoles."""
        config = self.config
        separation = np.hypot(dipoles.dx, dipoles.dy)
        with np.errstate(invalid="ignore", divide="ignore"):
            # The lobes of a close dipole cancel each other: a filter of the PSF finds F d / FWHM of each.
            lobe = dipoles.flux * separation / fwhm
            ratio = 0.5 + 0.25 * np.abs(dipoles.flux_difference) / lobe
            significant = dipoles.chi2_nothing - dipoles.chi2 > config.minSn**2
            return (
                dipoles.attempted
                & significant
                & (dipoles.chi2 < dipoles.chi2_point)
                & (ratio <= config.maxFluxRatio)
                & (separation <= config.maxSeparation * fwhm)
            )


def _as_columns(inputs: MeasurementInputs, dipoles: DipoleFits) -> dict[str, Column]:
    """Return the fits as columns."""
    scale, error_scale = inputs.flux_scale, inputs.error_scale
    jacobian = inputs.sky_jacobian
    east, north = np.einsum("nji,in->jn", jacobian, np.stack([dipoles.dx, dipoles.dy]))
    sky = _on_sky(jacobian, dipoles.dx_error, dipoles.dy_error, dipoles.dxy_covariance)
    length, length_error, angle_error = _as_polar(east, north, sky)
    moments = np.einsum("nji,in->jn", jacobian, np.stack([dipoles.moment_x, dipoles.moment_y]))
    sky = _on_sky(jacobian, dipoles.moment_x_error, dipoles.moment_y_error, dipoles.moment_covariance)
    moment, moment_error, _ = _as_polar(moments[0], moments[1], sky)
    with np.errstate(invalid="ignore"):
        # That at the best of places and directions: each of three free parameters gains half a chi square.
        moment *= 1.0 - 1.5 * np.minimum(moment_error / moment, 1.0 / _LEAST_SNR) ** 2
    unit = inputs.flux_unit
    named = {
        "dipoleMeanFlux": (
            dipoles.flux * scale, unit,
            "Flux of each lobe, that of the static source and of all light in its place",
        ),
        "dipoleMeanFluxErr": (
            dipoles.flux_error * scale * error_scale, unit, "Standard error of dipoleMeanFlux"
        ),
        "dipoleFluxDiff": (
            dipoles.flux_difference * scale, unit,
            "Flux of the positive lobe minus that of the negative one, if they are let differ",
        ),
        "dipoleFluxDiffErr": (
            dipoles.flux_difference_error * scale * error_scale, unit, "Standard error of dipoleFluxDiff"
        ),
        "dipoleMoment": (
            moment * scale, unit * u.arcsec,
            "Flux times separation of the lobes, from the difference alone: without the light of what stays",
        ),
        "dipoleMomentErr": (
            moment_error * scale * error_scale, unit * u.arcsec, "Standard error of dipoleMoment"
        ),
        "dipoleLength": (length, u.arcsec, "Separation of the lobes"),
        "dipoleLengthErr": (length_error * error_scale, u.arcsec, "Standard error of dipoleLength"),
        "dipoleAngle": (
            np.mod(np.rad2deg(np.arctan2(east, north)), 360.0), u.deg,
            "Bearing of the positive lobe from the negative one, from north through east",
        ),
        "dipoleAngleErr": (angle_error * error_scale, u.deg, "Standard error of dipoleAngle"),
        "dipoleChi2": (dipoles.chi2, None, "Chi square of the dipole on the difference"),
        "dipoleNdata": (
            dipoles.n_pixels.astype(np.int32), None, "Pixels of the difference in the dipole fit"
        ),
    }  # fmt: skip
    return {name: Column(v, unit=unit_, description=text) for name, (v, unit_, text) in named.items()}


def _on_sky(jacobian: np.ndarray, dx: np.ndarray, dy: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Return covariances to the east and north, ``(N, 2, 2)``, from errors along x and y, and covariance."""
    covariance = np.empty((len(xy), 2, 2))
    covariance[:, 0, 0], covariance[:, 1, 1] = dx**2, dy**2
    covariance[:, 0, 1] = covariance[:, 1, 0] = xy
    return jacobian @ covariance @ jacobian.transpose(0, 2, 1)


def _as_polar(
    east: np.ndarray, north: np.ndarray, covariance: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return length of vectors, its error, and that of their bearing in degrees."""
    length = np.hypot(east, north)
    with np.errstate(invalid="ignore", divide="ignore"):
        along = np.column_stack([east, north]) / length[:, None]
        across = np.column_stack([north, -east]) / length[:, None]
        length_error, width = (
            np.sqrt(np.einsum("ni,nij,nj->n", axis, covariance, axis)) for axis in (along, across)
        )
        return length, length_error, np.rad2deg(width / length)
