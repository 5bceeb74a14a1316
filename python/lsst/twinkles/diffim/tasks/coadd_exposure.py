"""The exposure that a coadd is: its grid, its planes, what it says of its visits."""

from __future__ import annotations

__all__ = ("COADD_VISITS_KEY", "CoaddPlanes", "TargetGrid", "coadd_visits", "make_coadd_exposure")

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import astropy.units as u
import astropy.wcs
import numpy as np

from ..adapters.masks import visit_mask_schema
from ..algorithms.coadd.inputs import inverse_variance_image
from .errors import UnusableExposureError

if TYPE_CHECKING:
    from lsst.images import Box, VisitImage
    from lsst.images.psfs import PointSpreadFunction

    from .coadd_input import LoadedInput

COADD_VISITS_KEY = "coaddVisits"
"""Key of the metadata of a coadd: the numbers of its visits, with blanks between them."""

_MAX_SIDE = 20_000


@dataclass(frozen=True)
class TargetGrid:
    """Pixels of a coadd.

    Attributes
    ----------
    bbox : `lsst.images.Box`
        Pixels.
    sky_projection : `lsst.images.SkyProjection`
        Where they are on the sky.
    detector : `lsst.images.cameras.Detector`
        Detector that they are, or stand for.
    instrument, physical_filter, band : `str`
        What the visits were taken with.
    detector_id : `int`
        Number of the detector.
    """

    bbox: Box
    sky_projection: Any
    detector: Any
    instrument: str
    physical_filter: str
    band: str
    detector_id: int

    @classmethod
    def of_exposure(cls, exposure: VisitImage, *, bbox: Box | None = None) -> Self:
        """Return the grid of a visit, from its exposure or a part of it (``bbox``: the whole)."""
        info = exposure.obs_info
        return cls(
            bbox=exposure.bbox if bbox is None else bbox,
            sky_projection=exposure.sky_projection,
            detector=exposure.detector,
            instrument=str(info.instrument),
            physical_filter=str(exposure.physical_filter),
            band=str(exposure.band),
            detector_id=int(info.detector_num or 0),
        )

    def on_tangent_plane(self, corners: Sequence[np.ndarray], *, pixel_scale: float) -> TargetGrid:
        """Return a grid with north up, east to the left, that holds some exposures.

        Parameters
        ----------
        corners : sequence of `numpy.ndarray`, ``(4, 3)``
            Unit vectors of the corners of each exposure.
        pixel_scale : `float`
            Arcsec per pixel.

        Raises
        ------
        UnusableExposureError
            If the exposures are so far apart that the grid would have more than 20000 pixels on a side.
        """
        from lsst.images import Box, DetectorFrame, SkyProjection

        points = np.concatenate(list(corners))
        centre = points.mean(axis=0)
        centre /= np.linalg.norm(centre)
        wcs = _tangent_wcs(centre, pixel_scale)
        ra, dec = np.degrees(np.arctan2(points[:, 1], points[:, 0])), np.degrees(np.arcsin(points[:, 2]))
        x, y = wcs.all_world2pix(ra, dec, 0)
        x0, y0 = int(np.floor(x.min())), int(np.floor(y.min()))
        nx, ny = int(np.ceil(x.max())) - x0 + 1, int(np.ceil(y.max())) - y0 + 1
        if max(nx, ny) > _MAX_SIDE:
            raise UnusableExposureError(
                f"The exposures spread over {nx} x {ny} pixels, more than {_MAX_SIDE} on a side; coadd "
                "those of one pointing.",
            )
        box = Box.factory[0:ny, 0:nx]
        wcs.wcs.crpix = [1.0 - x0, 1.0 - y0]
        frame = DetectorFrame(instrument=self.instrument, detector=self.detector_id, bbox=box)
        projection = SkyProjection.from_fits_wcs(wcs, frame, pixel_bounds=box)
        return TargetGrid(
            bbox=box,
            sky_projection=projection,
            detector=self.detector,
            instrument=self.instrument,
            physical_filter=self.physical_filter,
            band=self.band,
            detector_id=self.detector_id,
        )


def _tangent_wcs(centre: np.ndarray, pixel_scale: float) -> astropy.wcs.WCS:
    wcs = astropy.wcs.WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [np.degrees(np.arctan2(centre[1], centre[0])) % 360.0, np.degrees(np.arcsin(centre[2]))]
    wcs.wcs.crpix = [1.0, 1.0]
    wcs.wcs.cd = [[-pixel_scale / 3600.0, 0.0], [0.0, pixel_scale / 3600.0]]
    wcs.wcs.set()
    return wcs


@dataclass(frozen=True)
class CoaddPlanes:
    """Pixels, variance and masks of a coadd.

    Attributes
    ----------
    image, variance : `numpy.ndarray`, ``(Ny, Nx)``, float32
        nJy and its square; NaN without data.
    masks : `dict` [`str`, `numpy.ndarray`]
        Boolean planes by name.
    """

    image: np.ndarray
    variance: np.ndarray
    masks: dict[str, np.ndarray]

    @classmethod
    def make(cls, loaded: Sequence[LoadedInput], image: np.ndarray, *, lost_limit: float) -> CoaddPlanes:
        """Work out variance and masks.

        Parameters
        ----------
        loaded : sequence of `LoadedInput`
            What went in.
        image : `numpy.ndarray`, ``(Ny, Nx)``
            The sum.
        lost_limit : `float`
            Share of the weight whose loss is marked.

        Notes
        -----
        Blank sky has the variance ``1 / sum(1 / v)`` over the images that have data at a pixel. What the
        sources add is that of the weighted mean.
        """
        inputs = [item.data for item in loaded]
        shape = image.shape
        all_weight = inverse_variance_image(inputs, good_only=False)
        weight = inverse_variance_image(inputs, good_only=True)
        sources, saturated = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
        for item in loaded:
            own = 1.0 / item.data.sky.image(shape)
            sources += np.where(item.data.bad, np.float32(0.0), own**2 * item.excess)
            saturated += np.where(item.saturated, own, np.float32(0.0))
        no_data = weight <= 0
        with np.errstate(divide="ignore", invalid="ignore"):
            variance = 1.0 / weight + sources / weight**2
        is_saturated = saturated > lost_limit * all_weight
        no_data &= ~is_saturated
        image = np.where(no_data, np.float32(np.nan), image)
        lost = (all_weight - weight > lost_limit * all_weight) & ~is_saturated & ~no_data
        # A saturated core that no visit shows has a value to look at, and next to no weight.
        variance = np.where(np.isfinite(variance), variance, np.float32(1e4 / np.median(all_weight)))
        variance = np.where(no_data, np.float32(np.nan), variance)
        masks = {"NO_DATA": no_data, "SATURATED": is_saturated, "INEXACT_PSF": lost}
        return cls(image=image.astype(np.float32), variance=variance.astype(np.float32), masks=masks)


def make_coadd_exposure(
    grid: TargetGrid, loaded: Sequence[LoadedInput], planes: CoaddPlanes, psf: PointSpreadFunction
) -> VisitImage:
    """Put a coadd into the form of an exposure, so that it serves wherever a visit does."""
    from lsst.images import Image, Mask, VisitImage

    mask = Mask(schema=visit_mask_schema(), bbox=grid.bbox)
    for name, plane in planes.masks.items():
        if name not in mask.schema.names:
            mask = mask.add_plane(name, "Visits with much of the weight have no good data here.")
        mask.set(name, plane)
    return VisitImage(
        Image(planes.image, bbox=grid.bbox, unit=u.nJy),
        mask=mask,
        variance=Image(planes.variance, bbox=grid.bbox, unit=u.nJy**2),
        sky_projection=grid.sky_projection,
        obs_info=_describe(grid, loaded),
        psf=psf,
        detector=grid.detector,
        band=grid.band,
        metadata={
            COADD_VISITS_KEY: " ".join(str(item.visit) for item in loaded),
            "coaddNVisits": len(loaded),
        },
    )


def _describe(grid: TargetGrid, loaded: Sequence[LoadedInput]) -> Any:
    from astro_metadata_translator import ObservationInfo

    time = float(np.nansum([item.exposure_time for item in loaded]))
    return ObservationInfo(
        instrument=grid.instrument,
        physical_filter=grid.physical_filter,
        detector_num=grid.detector_id,
        exposure_time=time * u.s,
        object=f"coadd of {len(loaded)} visits",
        observation_type="coadd",
    )


def coadd_visits(exposure: VisitImage) -> list[int]:
    """Return the visits that a coadd was made of; none of an exposure that is no coadd."""
    text = exposure.metadata.get(COADD_VISITS_KEY, "")
    return [int(word) for word in str(text).split()]
