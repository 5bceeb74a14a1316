"""PSF fluxes at positions that are given."""

from __future__ import annotations

__all__ = ("ForcedMeasurementConfig", "ForcedMeasurementTask")

from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from astropy.table import Column, Table

from lsst.pipe.base import Struct, Task
from lsst.utils.timer import timeMethod

from ..adapters.metadata import visit_number
from ..algorithms.measure.psf_fit import measure_forced_fluxes
from .dia_source_table import calibration_at, exposure_times
from .plugins.base import MeasuredImage
from .weighted_pixels import WeightedPixelsConfig, fitted_square, weigh_images

if TYPE_CHECKING:
    from lsst.images import DifferenceImage, VisitImage


class ForcedMeasurementConfig(WeightedPixelsConfig):
    """Configuration of `ForcedMeasurementTask`."""


class ForcedMeasurementTask(Task):
    """Measure PSF fluxes on difference, science image and matched template where a table says."""

    ConfigClass = ForcedMeasurementConfig
    _DefaultName = "forcedMeasurement"
    config: ForcedMeasurementConfig

    @timeMethod
    def run(
        self,
        difference: DifferenceImage,
        science: VisitImage,
        matchedTemplate: VisitImage,
        positions: Table,
        errorScale: float = 1.0,
    ) -> Struct:
        """Measure.

        Parameters
        ----------
        difference : `lsst.images.DifferenceImage`
            Difference with white noise, its PSF and variance; not modified.
        science, matchedTemplate : `lsst.images.VisitImage`
            What was subtracted from what; not modified.
        positions : `astropy.table.Table`
            Positions: columns ``ra`` and ``dec`` (degrees, or another unit of angle), or ``x`` and ``y``
            (pixels, in the frame of ``difference``); further columns are handed on.
        errorScale : `float`, optional
            Factor on the errors of fluxes on the difference, ``scoreNoise`` of the detection.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``forcedSources`` (`astropy.table.Table`): the rows of ``positions`` in their order with
            ``visit``, ``detector``, ``band``, ``midpointMjdTai``, ``x``, ``y``, ``psfFlux`` (difference),
            ``scienceFlux``, ``templateFlux`` and their errors, and a flag for each, under which fluxes are
            NaN; ``psfFlux_flag_edge`` where the position is off the image or less than a square from its rim.

        Raises
        ------
        ValueError
            If ``positions`` has neither pair of columns.
        """
        x, y = _pixel_positions(positions, difference)
        ny, nx = difference.bbox.shape
        inside = (x >= -0.5) & (x <= nx - 0.5) & (y >= -0.5) & (y <= ny - 0.5)
        table = positions.copy()
        _add_identity(table, difference, x, y)
        images = weigh_images(self.config, difference, (science, matchedTemplate))
        scale, unit = calibration_at(difference, np.where(inside, x, 0.0), np.where(inside, y, 0.0))
        _, half = fitted_square(self.config, images[0])
        for name, pixels, factor in zip(
            ("psf", "science", "template"), images, (errorScale, 1.0, 1.0), strict=True
        ):
            assert pixels is not None, "all three were asked for"
            flux, error = _measure(pixels, x, y, inside, half)
            text = {"psf": "difference", "science": "science image", "template": "matched template"}[name]
            table[f"{name}Flux"] = Column(flux * scale, unit=unit, description=f"PSF flux on the {text}")
            table[f"{name}FluxErr"] = Column(
                error * scale * factor, unit=unit, description=f"Standard error of {name}Flux"
            )
            table[f"{name}Flux_flag"] = Column(~np.isfinite(flux), description=f"No {name}Flux")
        near = (x >= half) & (y >= half) & (x <= nx - 1 - half) & (y <= ny - 1 - half)
        table["psfFlux_flag_edge"] = Column(~near, description="The square reaches beyond the image")
        self.metadata["nForcedSources"] = len(table)
        self.metadata["nForcedSourcesOffImage"] = int(np.count_nonzero(~inside))
        return Struct(forcedSources=table)


def _measure(
    pixels: MeasuredImage, x: np.ndarray, y: np.ndarray, inside: np.ndarray, half: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return fluxes and errors; NaN for what is off the image."""
    flux, error = np.full(len(x), np.nan), np.full(len(x), np.nan)
    forced = measure_forced_fluxes(
        pixels.image, pixels.weight, pixels.psf, x=x[inside], y=y[inside], half=half
    )
    flux[inside], error[inside] = forced.flux, forced.error * pixels.noise_factor
    return flux, error


def _pixel_positions(positions: Table, difference: DifferenceImage) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels of the array."""
    names, box = positions.colnames, difference.bbox
    if "ra" in names and "dec" in names:
        ra, dec = (u.Quantity(positions[name], unit=positions[name].unit or u.deg) for name in ("ra", "dec"))
        good = np.isfinite(ra) & np.isfinite(dec)
        x, y = np.full(len(positions), np.nan), np.full(len(positions), np.nan)
        if good.any():  # the transform refuses to work on nothing
            from astropy.coordinates import SkyCoord

            sky = SkyCoord(ra=ra[good], dec=dec[good], frame="icrs")
            pixel = difference.sky_projection.sky_to_pixel(sky)
            x[good], y[good] = np.asarray(pixel.x, float), np.asarray(pixel.y, float)
    elif "x" in names and "y" in names:
        x, y = (np.asarray(positions[name], float) for name in ("x", "y"))
    else:
        raise ValueError(
            "positions must have columns ra and dec (angles) or x and y (pixels), "
            f"but has {', '.join(names) or 'none'}; rename those that hold the positions."
        )
    return x - box.x.start, y - box.y.start


def _add_identity(table: Table, difference: DifferenceImage, x: np.ndarray, y: np.ndarray) -> None:
    """Add pixel positions, and which exposure it is."""
    info, n, box = difference.obs_info, len(table), difference.bbox
    visit = visit_number(difference)
    values = {
        "visit": (np.full(n, visit if visit is not None else 0, np.int64), None, "Visit"),
        "detector": (np.full(n, info.detector_num or 0, np.int16), None, "Detector"),
        "band": (np.full(n, difference.band, dtype="U8"), None, "Band of the science exposure"),
        "midpointMjdTai": (np.full(n, exposure_times(info)[0]), u.d, "Middle of the exposure, TAI"),
        "x": (x + box.x.start, u.pix, "Position along x"),
        "y": (y + box.y.start, u.pix, "Position along y"),
    }
    for name, (column, unit, text) in values.items():
        table[name] = Column(column, unit=unit, description=text)
