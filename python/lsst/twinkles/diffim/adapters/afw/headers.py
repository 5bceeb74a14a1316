"""The primary header of an exposure file of the LSST stack."""

from __future__ import annotations

__all__ = ("make_primary_header",)

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import astropy.units as u
from astropy.io import fits

if TYPE_CHECKING:
    from lsst.images import VisitImage

# Version of the layout of an exposure.
_EXPOSURE_VERSION = 2
# What the stack takes out of the primary header, beside what is written there: of other origin it would be
# taken for what it is not (a TIMESYS other than TAI keeps the file from being read at all).
_TAKEN = {
    "EXPTIME", "DARKTIME", "DATE-AVG", "TIMESYS", "TIME-MID", "MJD-AVG-UT1", "AVG-ERA", "BORE-RA", "BORE-DEC",
    "BORE-AZ", "BORE-ALT", "BORE-AIRMASS", "BORE-ROTANG", "ROTTYPE", "OBS-LONG", "OBS-LAT", "OBS-ELEV",
    "AIRTEMP", "AIRPRESS", "HUMIDITY", "INSTRUMENT", "IDNUM", "FOCUSZ", "OBSTYPE", "PROGRAM", "REASON",
    "OBJECT", "HAS-SIMULATED-CONTENT", "EXPID", "EXPINFO_V", "AR_HDU", "DETNAME", "DETSER", "LTV1", "LTV2",
    "PSF_ID", "SKYWCS_ID", "COADD_INPUTS_ID", "AP_CORR_MAP_ID", "VALID_POLYGON_ID", "TRANSMISSION_CURVE_ID",
    "DETECTOR_ID", "PHOTOCALIB_ID", "FILTER_ID", "SIMPLE", "BITPIX", "NAXIS", "EXTEND", "INHERIT", "COMMENT",
    "HISTORY", "END",
}  # fmt: skip


def make_primary_header(
    exposure: VisitImage, numbers: dict[str, int], cards: Mapping[str, Any]
) -> fits.Header:
    """Return the header with the numbers of the components, the visit and the metadata.

    Parameters
    ----------
    exposure : `lsst.images.VisitImage`
        The exposure.
    numbers : `dict` [`str`, `int`]
        Number of each component in the archive, which starts in the fifth HDU.
    cards : `~collections.abc.Mapping`
        More of the metadata.

    Returns
    -------
    header : `astropy.io.fits.Header`
        Header of the first HDU.
    """
    header = fits.Header()
    header["HIERARCH EXPINFO_V"] = _EXPOSURE_VERSION
    header["AR_HDU"] = (5, "HDU (1-indexed) containing the archive")
    for name, number in numbers.items():
        key = f"{name}_ID"
        header[key if len(key) <= 8 else f"HIERARCH {key}"] = number
        header[f"HIERARCH ARCHIVE_ID_{name}"] = number
    for key, value in _visit_cards(exposure).items():
        if value is not None and not (isinstance(value, float) and not math.isfinite(value)):
            header[key if len(key) <= 8 else f"HIERARCH {key}"] = value
    _add_metadata(header, dict[str, Any](exposure.metadata) | dict(cards))
    return header


def _visit_cards(exposure: VisitImage) -> dict[str, Any]:
    """Return what the stack's VisitInfo reads."""
    info = exposure.obs_info
    cards: dict[str, Any] = {
        "EXPTIME": _number(info.exposure_time, u.s),
        "DARKTIME": _number(info.dark_time, u.s),
        "ROTTYPE": {"sky": "SKY", "horizon": "HORIZON", "mount": "MOUNT"}.get(
            str(info.boresight_rotation_coord), "UNKNOWN"
        ),
        "BORE-AIRMASS": info.boresight_airmass,
        "BORE-ROTANG": _number(info.boresight_rotation_angle, u.deg),
        "AIRTEMP": _celsius(info.temperature),
        "AIRPRESS": _number(info.pressure, u.Pa),
        "HUMIDITY": info.relative_humidity,
        "INSTRUMENT": info.instrument,
        "IDNUM": info.visit_id,
        "OBSTYPE": info.observation_type,
        "PROGRAM": info.science_program,
        "REASON": info.observation_reason,
        "OBJECT": info.object,
        "HAS-SIMULATED-CONTENT": bool(info.has_simulated_content),
        "EXPID": info.detector_exposure_id,
    }
    if info.datetime_begin is not None:
        middle = info.datetime_begin
        if info.datetime_end is not None:
            middle = middle + (info.datetime_end - middle) / 2
        middle = middle.tai
        middle.precision = 9
        cards |= {"DATE-AVG": middle.isot, "TIMESYS": "TAI"}
    if info.tracking_radec is not None:
        sky = info.tracking_radec.icrs
        cards |= {"BORE-RA": sky.ra.deg, "BORE-DEC": sky.dec.deg}
    if info.location is not None:
        place = info.location.to_geodetic()
        cards |= {"OBS-LONG": place.lon.deg, "OBS-LAT": place.lat.deg}
        cards["OBS-ELEV"] = _number(place.height, u.m)
    return cards


def _celsius(value: Any) -> float | None:
    return None if value is None else float(value.to_value(u.deg_C, u.temperature()))


def _number(value: Any, unit: u.UnitBase) -> float | None:
    return None if value is None else float(value.to_value(unit))


def _add_metadata(header: fits.Header, metadata: Mapping[str, Any]) -> None:
    """Add numbers and short words as cards, sentences as comments, except under names that the stack has."""
    for key, value in metadata.items():
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            continue
        if key.upper() in header or key.upper() in _TAKEN or key.upper().startswith("ARCHIVE_ID_"):
            continue
        text = str(value).encode("ascii", "replace").decode()
        if isinstance(value, bool | int | float) or len(key) + len(text) < 60:
            header[f"HIERARCH {key}"] = value if isinstance(value, bool | int | float) else text
        else:
            header.add_comment(f"{key}: {text}")
