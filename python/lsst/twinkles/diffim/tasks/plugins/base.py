"""What a measurement plug-in is, what it is given, and the registry of all."""

from __future__ import annotations

__all__ = (
    "MeasuredImage",
    "MeasurementInputs",
    "MeasurementPlugin",
    "MeasurementPluginConfig",
    "measurementPlugins",
    "register_plugin",
)

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from astropy.table import Column, Table
from astropy.units import UnitBase

from lsst.pex.config import Config, makeRegistry

from ...algorithms.measure.psf_fit import PsfFits
from ...algorithms.psf_grid import PsfGrid

if TYPE_CHECKING:
    from lsst.images import DifferenceImage


@dataclass(frozen=True)
class MeasuredImage:
    """Pixels of one image, ready for measurement.

    Attributes
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels without sky; 0 where the weight is.
    weight : `numpy.ndarray`, ``(Ny, Nx)``
        Inverse variances; 0 for pixels that are not used.
    psf : `PsfGrid`
        PSF in array coordinates.
    noise_factor : `float`
        By how much the correlation of its noise raises the error of a PSF flux (1: white).
    """

    image: np.ndarray
    weight: np.ndarray
    psf: PsfGrid
    noise_factor: float = 1.0


@dataclass(frozen=True)
class MeasurementInputs:
    """All that a plug-in may look at; arrays are not to be modified.

    Attributes
    ----------
    difference : `MeasuredImage`
        The difference, with white noise.
    residual : `numpy.ndarray`, ``(Ny, Nx)``, float32
        The difference without the point sources of ``fits``.
    science, template : `MeasuredImage` or `None`
        Science image and matched template, on the same pixels and flux scale; `None` if no plug-in that
        is switched on ``uses_direct_images``.
    exposure : `lsst.images.DifferenceImage`
        The difference as it came, with its mask, WCS and observation.
    detections : `astropy.table.Table`
        Detections, one row for each source (see `~lsst.twinkles.diffim.tasks.detection.DetectionTask`).
    fits : `PsfFits`
        Positions (pixels of the array) and PSF fluxes on the difference, in the same order.
    fwhm : `float`
        FWHM of the PSF of the difference, pixels.
    half : `int`
        Half side in pixels of the squares that were fitted.
    flux_scale : `numpy.ndarray`, ``(N,)``
        Factors that turn fluxes of the pixels into those of the table.
    flux_unit : `astropy.units.UnitBase`
        Unit of the latter.
    sky_jacobian : `numpy.ndarray`, ``(N, 2, 2)``
        Arcseconds to the east (row 0) and to the north (row 1) by pixels along x and y (columns).
    error_scale : `float`
        Factor on the errors of what is measured on the difference.
    columns : mapping from `str` to `astropy.table.Column`
        What the plug-ins of lower ``order`` have measured.
    """

    difference: MeasuredImage
    residual: np.ndarray
    science: MeasuredImage | None
    template: MeasuredImage | None
    exposure: DifferenceImage
    detections: Table
    fits: PsfFits
    fwhm: float
    half: int
    flux_scale: np.ndarray
    flux_unit: UnitBase
    sky_jacobian: np.ndarray
    error_scale: float
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.fits.x)

    def sky_positions(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return right ascension and declination in degrees of pixels of the array; NaN where they are."""
        ra, dec = np.full(len(x), np.nan), np.full(len(x), np.nan)
        good = np.isfinite(x) & np.isfinite(y)
        if good.any():  # the transform refuses to work on nothing
            box = self.exposure.bbox
            sky = self.exposure.sky_projection.pixel_to_sky(x=x[good] + box.x.start, y=y[good] + box.y.start)
            ra[good], dec[good] = sky.ra.deg, sky.dec.deg
        return ra, dec

    @property
    def at_edge(self) -> np.ndarray:
        """Does the fitted square reach beyond the image? (`numpy.ndarray`, ``(N,)``, bool)."""
        x, y = np.round(self.fits.x), np.round(self.fits.y)
        ny, nx = self.difference.image.shape
        return (x < self.half) | (y < self.half) | (x >= nx - self.half) | (y >= ny - self.half)


class MeasurementPluginConfig(Config):
    """Configuration of a plug-in that has nothing to configure; base of those that have."""


class MeasurementPlugin:
    """Measures some columns of the catalogue.

    Parameters
    ----------
    config : `MeasurementPluginConfig`
        An instance of ``ConfigClass``.

    Notes
    -----
    A plug-in works on all sources at once; loops over sources belong into compiled code. It is registered
    by `register_plugin` and has a file of its own.
    """

    ConfigClass: ClassVar[type[MeasurementPluginConfig]] = MeasurementPluginConfig
    order: ClassVar[float] = 1.0
    """Plug-ins run in ascending order; one that reads the columns of another has the higher."""
    uses_direct_images: ClassVar[bool] = False
    """Does it need ``science`` and ``template``?"""

    def __init__(self, config: Any = None) -> None:
        self.config: Any = self.ConfigClass() if config is None else config

    def measure(self, inputs: MeasurementInputs) -> dict[str, Column]:
        """Measure.

        Parameters
        ----------
        inputs : `MeasurementInputs`
            Images, positions and what is known so far.

        Returns
        -------
        columns : `dict` from `str` to `astropy.table.Column`
            By name; one value a source, each with a description and, if it has a dimension, a unit.
            The same columns with the same types and units come back when there is no source.
        """
        raise NotImplementedError


measurementPlugins = makeRegistry(  # noqa: N816 (as registries of the stack are named)
    "Plug-ins of the measurement of DIA sources.", configBaseType=MeasurementPluginConfig
)
"""Registry of measurement plug-ins; `lsst.twinkles.diffim.tasks.plugins` fills it."""


def register_plugin(name: str) -> Callable[[type[MeasurementPlugin]], type[MeasurementPlugin]]:
    """Return a class decorator that registers a plug-in under a name."""

    def decorate(plugin: type[MeasurementPlugin]) -> type[MeasurementPlugin]:
        measurementPlugins.register(name, plugin)
        return plugin

    return decorate
