"""Exposures that the LSST stack wrote, read without the stack."""

from __future__ import annotations

__all__ = ("is_afw_file", "read_afw_exposure")

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from ..fits_files import UnreadableExposureError, has_pixels, open_fits, read_array
from ..header_values import find_unit
from ..make_missing import compare_variance
from ..masks import bad_pixels
from ..psfs import InvalidPsfError
from .archive import AfwComponentError, Row, TableArchive
from .kernels import KERNEL_READERS
from .photometry import FIELD_READERS, PhotometricCalibration
from .psfs import PSF_READERS, AfwPsf
from .sky import SKY_READERS, SkySystem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lsst.images import Box, Mask, SkyProjection, VisitImage
    from lsst.images.fields import Field
    from lsst.images.psfs import PointSpreadFunction

_LOG = logging.getLogger(__name__)

# Planes of an exposure, in the order of their HDUs.
_PLANES = ("IMAGE", "MASK", "VARIANCE")
# Components that difference imaging has no use for.
_LEFT_ASIDE = {"COADD_INPUTS", "SUMMARYSTATS", "TRANSMISSION_CURVE", "ID"}
_READ = {"FILTER", "PHOTOCALIB", "SKYWCS", "PSF", "DETECTOR", "AP_CORR_MAP", "VALID_POLYGON"}
# Headings of files from before 2018, which have no ARCHIVE_ID_ cards.
_OLD_HEADINGS = {"WCS": "SKYWCS", "CALIB": "PHOTOCALIB"}
_UNKNOWN_DETECTOR = -1
_MEASURE_PSF = "Have the PSF measured from the stars (--psf stars, psf='stars')"

_READERS = {
    **KERNEL_READERS,
    **PSF_READERS,
    **SKY_READERS,
    **FIELD_READERS,
    "FilterLabel": lambda archive, stored: stored.row(),
    "Detector": lambda archive, stored: stored.row(0),
}


def is_afw_file(path: str | Path) -> bool:
    """Tell whether a file has the table archive of an exposure of the LSST stack."""
    with open_fits(path) as hdus:
        return any("AR_HDU" in hdu.header for hdu in hdus[:2])


def read_afw_exposure(
    path: str | Path,
    *,
    visit: int | None = None,
    band: str | None = None,
    physical_filter: str | None = None,
    psf: str = "file",
    sky_projection: SkyProjection | None = None,
) -> VisitImage:
    """Read an exposure that `lsst.afw.image.Exposure.writeFits` wrote: a calexp, a warp, a coadd.

    Image, variance, mask planes by name, celestial coordinates, photometric calibration, PSF, filter, what
    is known of visit and detector, valid polygon and aperture corrections are read. A component that is
    not understood is named in the log and in the metadata, and left out, as long as the exposure is one
    without it.

    Parameters
    ----------
    path : `str` or `pathlib.Path`
        File.
    visit : `int`, optional
        Visit number, if not that of the file.
    band, physical_filter : `str`, optional
        Short and full name of the filter, if not those of the file.
    psf : `str`, optional
        ``file`` for the PSF of the file, ``stars`` to measure one from the stars instead. A file without a
        PSF has it measured in any case.
    sky_projection : `lsst.images.SkyProjection`, optional
        Celestial coordinates for a file that has none, instead of a stand-in.

    Returns
    -------
    exposure : `lsst.images.VisitImage`
        The exposure, with a PSF that gives the images that the stack's own gives; planes in the pixel frame
        of the file.

    Raises
    ------
    UnreadableExposureError
        If the file is missing, damaged, or no such exposure, or its PSF cannot be used.
    InvalidPsfError
        If there is no PSF and no star to measure it from.
    """
    if psf not in ("file", "stars"):
        raise ValueError(f"psf has to be 'file' or 'stars', got {psf!r}.")
    try:
        with open_fits(path) as hdus:
            reader = _Reader(path, hdus)
            reader.read_pixels()
        reader.read_components(psf=psf, sky_projection=sky_projection, visit=visit)
        return reader.build(band=band, physical_filter=physical_filter)
    except (UnreadableExposureError, InvalidPsfError):
        raise
    except Exception as error:  # what damaged headers and tables raise has no end
        raise UnreadableExposureError(
            path,
            f"something in it is not as it should be ({type(error).__name__}: {error})",
            "It may be damaged: fetch or write it again",
        ) from error


class _Reader:
    """Reads one file, noting what it leaves out."""

    def __init__(self, path: str | Path, hdus: fits.HDUList) -> None:
        self.path = Path(path)
        self.hdus = hdus
        self.notes: dict[str, str] = {}
        # Before 2014 everything stood in the header of the image.
        self.header = hdus[0].header if "AR_HDU" in hdus[0].header else hdus[1].header
        if not isinstance(self.header.get("AR_HDU"), int):
            raise UnreadableExposureError(
                path, "it has no table archive (keyword AR_HDU)", "Give a file that the LSST stack wrote"
            )
        self.archive = TableArchive.read(hdus, self.header["AR_HDU"] - 1, path, _READERS)
        self.numbers = _component_numbers(self.header)

    def note(self, key: str, sentence: str) -> None:
        """Say something in the log and for the metadata."""
        self.notes[key] = sentence
        _LOG.warning("%s: %s", self.path.name, sentence)

    # Pixels ------------------------------------------------------------------

    def read_pixels(self) -> None:
        """Read the three planes."""
        from lsst.images import Box

        index = {name: self._find_plane(name) for name in _PLANES}
        arrays = {name: read_array(self.hdus, i, self.path) for name, i in index.items()}
        self.image = arrays["IMAGE"].astype(np.float32, copy=False)
        self.variance = arrays["VARIANCE"].astype(np.float32, copy=False)
        if any(array.shape != self.image.shape or array.ndim != 2 for array in arrays.values()):
            shapes = {name: array.shape for name, array in arrays.items()}
            raise UnreadableExposureError(
                self.path, f"its planes are of shapes {shapes}", "They have to be of the same two dimensions"
            )
        self.image_header = self.hdus[index["IMAGE"]].header
        x0, y0 = _first_pixel(self.image_header)
        height, width = self.image.shape
        self.bbox: Box = Box.factory[y0 : y0 + height, x0 : x0 + width]
        self.mask = self._make_mask(arrays["MASK"].astype(np.int64), self.hdus[index["MASK"]].header)
        unit_header = self.image_header if "BUNIT" in self.image_header else self.header
        self.unit, guessed = find_unit(unit_header)
        if guessed:
            self.note("assumedUnit", guessed)

    def _find_plane(self, name: str) -> int:
        for i, hdu in enumerate(self.hdus):
            if has_pixels(hdu) and name in (hdu.header.get("EXTTYPE"), hdu.header.get("EXTNAME")):
                return i
        raise UnreadableExposureError(
            self.path, f"it has no plane {name}", "Write it again with Exposure.writeFits"
        )

    def _make_mask(self, bits: np.ndarray, header: fits.Header) -> Mask:
        """Return a mask with the planes of the file under the names that `lsst.images` has for them."""
        from lsst.images import Mask, MaskPlane, MaskSchema

        from ..masks import difference_mask_schema, resolve_plane_name, visit_mask_schema

        names: dict[int, str] = {}
        for key, value in header.items():
            if key.startswith("MP_"):
                try:
                    names[int(value)] = resolve_plane_name(key[3:])
                except ValueError:  # a plane of some task's own
                    names[int(value)] = key[3:]
        schema = visit_mask_schema()
        if not set(names.values()) <= set(schema.names):
            planes = {plane.name: plane for plane in difference_mask_schema() if plane is not None}
            for name in sorted(set(names.values()) - set(planes)):
                planes[name] = MaskPlane(name, f"Plane {name} of the file.")
            schema = MaskSchema(planes.values())
        mask = Mask(0, schema=schema, bbox=self.bbox)
        every = int(np.bitwise_or.reduce(bits, axis=None)) if bits.size else 0
        for bit in range(max(every, 0).bit_length()):
            if every >> bit & 1:
                if bit not in names:
                    self.note(f"maskBit{bit}", f"bit {bit} of the mask has no name: taken as BAD")
                name = names.get(bit, "BAD")
                mask.set(name, ((bits >> bit) & 1 == 1) | mask.get(name))
        return mask

    # Components --------------------------------------------------------------

    def read_components(self, *, psf: str, sky_projection: SkyProjection | None, visit: int | None) -> None:
        """Read what the archive holds."""
        self.info = _observation_info(self.header)
        self.visit = self.info.visit_id if visit is None else visit
        self.detector = self._component("DETECTOR", dict) or {}
        self.projection = self._projection(sky_projection)
        self.calibration = self._component("PHOTOCALIB", PhotometricCalibration)
        self.filter = self._component("FILTER", dict)
        self.polygon = self._component("VALID_POLYGON")
        self.corrections = self._component("AP_CORR_MAP", dict) or {}
        self.bad = ~np.isfinite(self.image) | ~(self.variance > 0)
        self.bad |= bad_pixels(self.mask, ("NO_DATA", "SATURATED", "BAD"))
        if (sentence := compare_variance(self.image, self.variance, self.bad)) is not None:
            self.note("noticedVariance", sentence)
        self.psf = self._psf(psf)
        for name in sorted(set(self.numbers) - _READ):
            if name in _LEFT_ASIDE:
                _LOG.info("%s: component %s is not needed and left out", self.path.name, name)
            else:
                kind = self._class_of(name)
                self.note(f"skipped{name}", f"component {name} ({kind}) is not known and left out")

    def _class_of(self, name: str) -> str:
        try:
            return f"a {self.archive.describe(self.numbers[name]).name}"
        except AfwComponentError as error:
            return str(error)

    def _component(self, name: str, kind: type | None = None) -> Any:
        """Return a component, `None` if the file does not have it or it cannot be read."""
        try:
            value = self.archive.get(self.numbers.get(name, 0))
        except AfwComponentError as error:
            self.note(f"skipped{name}", f"component {name} cannot be read and is left out: {error}")
            return None
        if value is not None and kind is not None and not isinstance(value, kind):
            self.note(f"skipped{name}", f"component {name} is something else and left out")
            return None
        return value

    def _projection(self, given: SkyProjection | None) -> SkyProjection:
        from lsst.images import DetectorFrame

        from ..camera import INSTRUMENT_NAME, make_sky_projection

        frame = DetectorFrame(
            instrument=self.info.instrument or INSTRUMENT_NAME,
            visit=self.visit,
            detector=int(self.detector.get("id", _UNKNOWN_DETECTOR)),
            bbox=self._detector_box(),
        )
        system = self._component("SKYWCS", SkySystem)
        if system is not None:
            return system.projection(frame, self.bbox)
        from ..make_missing import make_wcs
        from ..plain_fits import find_wcs

        wcs = find_wcs(self.image_header, self.notes)
        if wcs is None and given is not None:
            self.note("madeWcs", "no WCS in the file: taken to lie on the pixels of the other image")
            return given
        if wcs is None:
            wcs, note = make_wcs(self.bbox.shape, self.header)
            self.note("madeWcs", note)
        return make_sky_projection(wcs, visit=self.visit, bbox=self.bbox)

    def _detector_box(self) -> Box:
        """Return the pixels of the detector, those of the image where it is not on them."""
        from lsst.images import Box

        if not self.detector:
            return self.bbox
        x1, y1, x2, y2 = (int(self.detector[f"bbox_{end}_{axis}"]) for end in ("min", "max") for axis in "xy")
        box = Box.factory[y1 : y2 + 1, x1 : x2 + 1]
        return box if box.contains(self.bbox) else self.bbox

    def _psf(self, source: str) -> PointSpreadFunction:
        """Return the PSF of the file, or one measured from the stars."""
        if source == "file" and self.numbers.get("PSF", 0):
            try:
                model = self.archive.get(self.numbers["PSF"])
                if not isinstance(model, AfwPsf):
                    raise AfwComponentError("PSF", "it is not one")
                return model.within(self.bbox)
            except AfwComponentError as error:
                raise UnreadableExposureError(
                    self.path, f"its PSF, {error.name}, {error.problem}", error.cure or _MEASURE_PSF
                ) from error
        from ..star_psf import measure_image_psf

        if source == "file":
            _LOG.warning("%s: the file has no PSF", self.path.name)
        result = measure_image_psf(self.image, self.variance, self.bad, self.bbox)
        self.note("madePsf", result.note)
        return result.psf

    # Exposure ----------------------------------------------------------------

    def build(self, *, band: str | None, physical_filter: str | None) -> VisitImage:
        """Return the exposure."""
        from lsst.images import Image, VisitImage

        from ..camera import make_detector

        band, physical_filter = self._filter(band, physical_filter)
        with self.info.edit_copy() as info:
            info.physical_filter = physical_filter
            info.visit_id = self.visit
            if self.detector:
                info.detector_num = int(self.detector["id"])
                info.detector_unique_name = str(self.detector["name"]).strip()
                info.detector_serial = str(self.detector["serial"]).strip()
            if "EXPID" in self.header:
                info.detector_exposure_id = int(self.header["EXPID"])
        return VisitImage(
            Image(self.image, bbox=self.bbox, unit=self.unit, sky_projection=self.projection),
            mask=self.mask,
            variance=Image(self.variance, bbox=self.bbox, unit=self.unit**2),
            obs_info=info,
            photometric_scaling=self._scaling(),
            psf=self.psf,
            detector=make_detector(
                self.visit,
                bbox=self._detector_box(),
                **_detector_identity(self.detector),
            ),
            bounds=self.polygon,
            aperture_corrections=self.corrections,
            band=band,
            metadata={"inputFile": self.path.name, **self.notes},
        )

    def _scaling(self) -> Field | None:
        return None if self.calibration is None else self.calibration.scaling(self._detector_box(), self.unit)

    def _filter(self, band: str | None, physical_filter: str | None) -> tuple[str, str]:
        """Return short and full name of the filter."""
        from ..header_values import find_band

        stored: Mapping[str, Any] = self.filter or {}
        names = [
            str(stored[key]).strip() if stored.get(flag) and str(stored.get(key, "")).strip() else None
            for flag, key in (("band_exists", "band"), ("physical_exists", "physical"))
        ]
        if not any(names):
            names = list(find_band(self.header))
        short, full = band or names[0] or names[1], physical_filter or names[1] or names[0]
        return short or "unknown", full or short or "unknown"


def _detector_identity(row: Row) -> dict[str, Any]:
    if not row:
        return {}
    return {"number": int(row["id"]), "name": str(row["name"]).strip(), "serial": str(row["serial"]).strip()}


def _component_numbers(header: fits.Header) -> dict[str, int]:
    """Return the archive numbers of the components by name."""
    numbers: dict[str, int] = {}
    for key in header:
        if key.startswith("ARCHIVE_ID_") and isinstance(header[key], int):
            numbers[key.removeprefix("ARCHIVE_ID_")] = header[key]
    for name in (*_READ, *_LEFT_ASIDE, *_OLD_HEADINGS):
        value = header.get(f"{name}_ID")
        if isinstance(value, int):
            numbers.setdefault(_OLD_HEADINGS.get(name, name), value)
    return {name: number for name, number in numbers.items() if number}


def _first_pixel(header: fits.Header) -> tuple[int, int]:
    """Return x and y of the first pixel, which the stack keeps in a WCS of its own and in LTV1, LTV2."""
    for axis in ("1", "2"):
        if header.get(f"CTYPE{axis}A") != "LINEAR":
            return round(-header.get("LTV1", 0)), round(-header.get("LTV2", 0))
    x, y = (header[f"CRVAL{axis}A"] - (header.get(f"CRPIX{axis}A", 1.0) - 1.0) for axis in "12")
    return round(x), round(y)


def _observation_info(header: fits.Header) -> Any:
    """Return what the header tells of the observation (`astro_metadata_translator.ObservationInfo`)."""
    from astro_metadata_translator import ObservationInfo, VisitInfoTranslator

    try:
        return ObservationInfo.from_header(header.copy(), translator_class=VisitInfoTranslator, quiet=True)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:  # a coadd has no single observation
        _LOG.info("The header tells of no single observation (%s)", error)
        return ObservationInfo.makeObservationInfo()
