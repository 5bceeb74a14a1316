"""Read an exposure from any file this package understands."""

from __future__ import annotations

__all__ = ("carried_over", "has_sky", "read_exposure", "with_sky_projection")

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..algorithms.read.flaws import find_spikes
from ..algorithms.read.sky import SkyModel, estimate_sky, neighbour_correlation
from .afw.exposure import is_afw_file, read_afw_exposure
from .fits_files import UnreadableExposureError, is_lsst_images_file
from .header_values import (
    VISIT_KEYS,
    find_band,
    find_exposure_facts,
    find_keyword,
    find_pixel_scale,
    nanojansky_per_unit,
)
from .make_missing import compare_variance, make_mask_planes, make_variance, make_wcs
from .masks import bad_pixels
from .plain_fits import PlainExposure, read_plain_fits
from .psfs import neighbour_ratio, psf_from_grid, sample_psf
from .star_psf import SKY_MESH

if TYPE_CHECKING:
    from lsst.images import Box, DetectorFrame, Mask, MaskedImage, SkyProjection, VisitImage
    from lsst.images.fields import ChebyshevField
    from lsst.images.psfs import PointSpreadFunction

_LOG = logging.getLogger(__name__)

# Noise with less correlation than this between neighbours passes for white.
_WHITE = 0.1
# A spike is this many sigma high, and its neighbours have less than this part of what a star's would have.
_SPIKE_SIGMA = 6.0
_SPIKE_RATIO = 0.5
# Pixels so many times the scatter of all from their median hold no light, but a number that stands for
# something else and would spoil every mean.
_MAX_SIGNAL = 1e8
_N_SAMPLE = 100_000


def read_exposure(
    path: str | Path,
    *,
    visit: int | None = None,
    band: str | None = None,
    physical_filter: str | None = None,
    hdu: int | str | None = None,
    mask_planes: Mapping[int, str] | None = None,
    gain: float | None = None,
    read_noise: float | None = None,
    saturation: float | None = None,
    zero_point: float | None = None,
    sky_projection: SkyProjection[DetectorFrame] | None = None,
    psf: str = "file",
) -> VisitImage:
    """Read a calibrated exposure of one CCD.

    A file written by `lsst.images` is read as it is, one written by the LSST stack by
    `~.afw.exposure.read_afw_exposure`. Of a plain FITS file the pixel unit is kept; whatever
    it lacks is made from what it has; a warning of the log says so for each thing made, and so does the entry
    ``made...`` of the exposure's metadata.

    Parameters
    ----------
    path : `str` or `pathlib.Path`
        File.
    visit : `int`, optional
        Visit number of a plain file, if not the one of its header.
    band, physical_filter : `str`, optional
        Short and full name of the filter of a plain file, if not those of its header.
    hdu : `int` or `str`, optional
        HDU of a plain file that has the image.
    mask_planes : `~collections.abc.Mapping` [`int`, `str`], optional
        Names of the bits of a plain file's mask (see `~.plain_fits.read_plain_fits`).
    gain, read_noise, saturation, zero_point : `float`, optional
        Electrons per pixel unit; electrons; pixel units; AB magnitude of one pixel unit. They stand in for,
        or override, what the header says.
    sky_projection : `lsst.images.SkyProjection`, optional
        Projection for a file without a WCS, instead of a stand-in.
    psf : `str`, optional
        ``file`` for the PSF of the file, where it has one; ``stars`` to measure it in any case.

    Returns
    -------
    exposure : `lsst.images.VisitImage`
        The exposure. Pixels without data are NaN and marked ``NO_DATA``.

    Raises
    ------
    UnreadableExposureError
        If the file is missing, damaged, or no exposure.
    InvalidPsfError
        If the PSF is unusable, or there is none and no star to measure it from.
    """
    if is_lsst_images_file(path):
        return _read_lsst_images(path, psf)
    if is_afw_file(path):
        return read_afw_exposure(
            path,
            visit=visit,
            band=band,
            physical_filter=physical_filter,
            psf=psf,
            sky_projection=sky_projection,
        )
    plain = read_plain_fits(path, hdu=hdu, mask_planes=mask_planes)
    header = plain.header.copy()
    for key, value in (("BAND", band), ("FILTER", physical_filter or band)):
        if value is not None:
            header[key] = value
    if visit is None and (number := find_keyword(header, VISIT_KEYS)) is not None:
        visit = int(number)
    if psf == "stars" and plain.psf is not None:
        plain = replace(plain, psf=None)
    builder = _Builder(path, plain, visit)
    builder.complete_pixels(gain=gain, read_noise=read_noise, saturation=saturation)
    builder.complete_models(sky_projection)
    return builder.build(header, plain.zero_point if zero_point is None else zero_point)


def has_sky(exposure: MaskedImage) -> bool:
    """Tell whether an exposure had a WCS of its own when it was read (`bool`)."""
    return "madeWcs" not in exposure.metadata


def with_sky_projection(exposure: VisitImage, sky_projection: SkyProjection[DetectorFrame]) -> VisitImage:
    """Return an exposure that lies on the pixels of another.

    Parameters
    ----------
    exposure : `lsst.images.VisitImage`
        Exposure; not modified. Pixels are shared.
    sky_projection : `lsst.images.SkyProjection`
        Projection of the other exposure, of the same size and frame.

    Returns
    -------
    exposure : `lsst.images.VisitImage`
        Same pixels, PSF and calibration.
    """
    from lsst.images import Image, VisitImage

    return VisitImage(
        Image(
            exposure.image.array,
            bbox=exposure.bbox,
            unit=exposure.unit,
            sky_projection=sky_projection,
        ),
        **carried_over(exposure),
    )


def carried_over(exposure: VisitImage) -> dict[str, Any]:
    """Return all but pixels and coordinates of an exposure, for another to be made with them."""
    shared = (
        "mask", "variance", "obs_info", "summary_stats", "photometric_scaling", "psf", "detector",
        "aperture_corrections", "backgrounds", "band",
    )  # fmt: skip
    return {name: getattr(exposure, name) for name in shared} | {
        "metadata": dict[str, Any](exposure.metadata)
    }


def _read_lsst_images(path: str | Path, psf: str) -> VisitImage:
    from lsst.images import VisitImage

    try:
        exposure = VisitImage.read(str(path))
    except Exception as error:  # of FITS, JSON, pydantic, AST: whatever they meet in a damaged file
        raise UnreadableExposureError(
            path,
            f"as an lsst.images.VisitImage: {re.split(r'[.] ', str(error))[0].rstrip('.')}",
            "It is cut short, damaged or holds something else: give a file written by VisitImage.write",
        ) from error
    if psf == "stars":
        from .star_psf import measure_image_psf

        bad = bad_pixels(exposure.mask, ("NO_DATA", "SATURATED", "BAD")) | ~np.isfinite(exposure.image.array)
        result = measure_image_psf(exposure.image.array, exposure.variance.array, bad, exposure.bbox)
        _LOG.warning("%s: %s", Path(path).name, result.note)
        exposure.psf = result.psf
        exposure.metadata["madePsf"] = result.note
    return exposure


def _no_light(image: np.ndarray) -> np.ndarray:
    """Find finite pixels of a size that no light has, ``(Ny, Nx)``, bool."""
    sample = image.ravel()[:: max(1, image.size // _N_SAMPLE)].astype(float)
    sample = sample[np.isfinite(sample)]
    scatter = 1.4826 * np.median(np.abs(sample - np.median(sample))) if len(sample) else 0.0
    if not scatter > 0:
        return np.zeros(image.shape, dtype=bool)
    limit = min(_MAX_SIGNAL * scatter, float(np.finfo(np.float32).max))
    with np.errstate(invalid="ignore", over="ignore"):
        return np.isfinite(image) & (np.abs(image - np.float32(np.median(sample))) > limit)


class _Builder:
    """Puts a `VisitImage` together from a plain file, noting what it makes."""

    def __init__(self, path: str | Path, plain: PlainExposure, visit: int | None) -> None:
        from lsst.images import Box

        self.path = Path(path)
        self.plain = plain
        self.visit = visit
        self.bbox: Box = Box.from_shape(plain.image.shape)
        self.notes: dict[str, str] = {}
        for topic, sentence in plain.notes.items():
            self.note(f"assumed{topic.capitalize()}", sentence)

    def note(self, key: str, sentence: str) -> None:
        """Say what was made, in the log and for the metadata."""
        self.notes[key] = sentence
        _LOG.warning("%s: %s", self.path.name, sentence)

    def complete_pixels(
        self, *, gain: float | None, read_noise: float | None, saturation: float | None
    ) -> None:
        """Make mask and variance where the file lacks them."""
        image, header = self.plain.image, self.plain.header
        if (no_light := _no_light(image)).any():
            image = np.where(no_light, np.float32(np.nan), image)
            n = np.count_nonzero(no_light)
            self.note("markedNoLight", f"{n} pixels beyond {_MAX_SIGNAL:.0e} times the noise marked NO_DATA")
        self.planes = dict(self.plain.planes or {})
        if self.plain.planes is None:
            self.planes, note = make_mask_planes(image, header, saturation=saturation)
            self.note("madeMask", note)
        self._mark("NO_DATA", ~np.isfinite(image) & (image != np.inf), "not finite", silent=True)
        self._mark("SATURATED", image == np.inf, "plus infinity", silent=True)
        if self.plain.variance is not None:
            self._mark("BAD", ~np.isfinite(self.plain.variance), "without a positive variance")
        self.bad = np.zeros(image.shape, dtype=bool)
        for plane in ("NO_DATA", "SATURATED", "BAD"):
            self.bad |= self.planes.get(plane, False)
        if self.bad.all():
            raise UnreadableExposureError(
                self.path, "every pixel is masked", "Look at its mask, or name the bits of the mask"
            )
        self.image = np.where(np.isfinite(image), image, np.nan).astype(np.float32, copy=False)
        self.variance = self._variance(gain, read_noise)

    def _mark(self, plane: str, where: np.ndarray, what: str, *, silent: bool = False) -> None:
        """Set a mask plane on some pixels."""
        if not where.any():
            return
        self.planes[plane] = self.planes.get(plane, np.zeros_like(where)) | where
        if not silent:
            self.note(f"marked{plane}", f"{np.count_nonzero(where)} pixels {what} marked {plane}")

    def _variance(self, gain: float | None, read_noise: float | None) -> np.ndarray:
        """Return the file's variance with its gaps filled, or one that is made."""
        given = self.plain.variance
        if given is not None:
            if (sentence := compare_variance(self.image, given, self.bad)) is not None:
                self.note("noticedVariance", sentence)
            return np.where(np.isfinite(given), given, np.nanmedian(given)).astype(np.float32)
        variance, note = make_variance(
            self.image, self.sky, self.plain.header, self.plain.unit, gain=gain, read_noise=read_noise
        )
        self.note("madeVariance", note)
        correlation = neighbour_correlation(self.image, self.sky, self.bad)
        if correlation > _WHITE:
            self.note(
                "assumedWhiteNoise",
                f"the noise of neighbouring pixels is correlated by {correlation:.2f} (image resampled or "
                "smoothed), which the variance does not tell: errors of fluxes come out too small",
            )
        return variance

    @property
    def sky(self) -> SkyModel:
        """Sky of the image, estimated when first asked for."""
        if not hasattr(self, "_sky"):
            try:
                self._sky = estimate_sky(self.image, self.bad, mesh=SKY_MESH)
            except ValueError as error:
                raise UnreadableExposureError(
                    self.path, str(error).rstrip("."), "Look at its mask"
                ) from error
        return self._sky

    def complete_models(self, sky_projection: SkyProjection[DetectorFrame] | None) -> None:
        """Make WCS and PSF where the file lacks them."""
        from .camera import make_sky_projection

        if self.plain.wcs is not None:
            self.projection = make_sky_projection(self.plain.wcs, visit=self.visit, bbox=self.bbox)
        elif sky_projection is not None:
            self.projection = sky_projection
            self.note("madeWcs", "no WCS in the header: taken to lie on the pixels of the other image")
        else:
            wcs, note = make_wcs(self.bbox.shape, self.plain.header)
            self.projection = make_sky_projection(wcs, visit=self.visit, bbox=self.bbox)
            self.note("madeWcs", note)
            if find_pixel_scale(self.plain.header) is None:
                self.note("assumedPixelScale", "lengths in arcsec are a guess: no pixel scale in the header")
        self.psf = self._psf()
        if self.plain.planes is None:
            self._mark_spikes()

    def _mark_spikes(self) -> None:
        """Mark hot pixels and cosmic rays of an image without a mask, which the PSF tells from stars."""
        light = np.where(np.isfinite(self.image), self.image - self.sky.level, 0.0)
        ratio = _SPIKE_RATIO * neighbour_ratio(sample_psf(self.psf, self.bbox, grid=3))
        spikes = find_spikes(light, np.sqrt(self.variance), self.bad, least_ratio=ratio, n_sigma=_SPIKE_SIGMA)
        self._mark("BAD", spikes, "sharper than the PSF (hot or dead pixels, cosmic rays)")

    def _psf(self) -> PointSpreadFunction:
        """Return the file's PSF, or one measured from the stars."""
        if self.plain.psf is not None:
            return psf_from_grid(self.plain.psf, self.bbox)
        from .star_psf import measure_psf

        light = np.where(np.isfinite(self.image), self.image - self.sky.level, 0.0).astype(np.float32)
        result = measure_psf(light, self.sky.sigma, self.variance, self.bad, self.bbox)
        self.note("madePsf", result.note)
        return result.psf

    def build(self, header: Mapping, zero_point: float | None) -> VisitImage:
        """Return the exposure."""
        from astro_metadata_translator import ObservationInfo

        from lsst.images import Image, VisitImage

        from .camera import make_detector

        band, physical_filter = find_band(header)
        facts = find_exposure_facts(header)
        info = ObservationInfo.makeObservationInfo(
            physical_filter=physical_filter, visit_id=self.visit, **facts
        )
        unit = self.plain.unit
        return VisitImage(
            Image(self.image, bbox=self.bbox, unit=unit, sky_projection=self.projection),
            mask=self._mask(),
            variance=Image(self.variance, bbox=self.bbox, unit=unit**2),
            obs_info=info,
            photometric_scaling=self._scaling(zero_point),
            psf=self.psf,
            detector=make_detector(self.visit, bbox=self.bbox),
            band=band,
            metadata={"inputFile": self.path.name, **self.notes},
        )

    def _mask(self) -> Mask:
        from lsst.images import Mask

        from .masks import difference_mask_schema, visit_mask_schema

        schema = visit_mask_schema()
        if not set(self.planes) <= set(schema.names):
            schema = difference_mask_schema()
        mask = Mask(0, schema=schema, bbox=self.bbox)
        for plane, where in self.planes.items():
            mask.set(plane if plane in schema.names else "BAD", where)
        return mask

    def _scaling(self, zero_point: float | None) -> ChebyshevField | None:
        """Return the field that turns pixel units into nJy, `None` if that is not known."""
        import astropy.units as u

        from lsst.images.fields import ChebyshevField

        if zero_point is None or self.plain.unit.is_equivalent(u.nJy):
            return None
        factor = np.array([[nanojansky_per_unit(zero_point)]])
        return ChebyshevField(self.bbox, factor, unit=u.nJy / self.plain.unit)
