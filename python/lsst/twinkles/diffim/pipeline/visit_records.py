"""Dimension records that make a calibrated exposure known to a registry."""

from __future__ import annotations

__all__ = ("VisitConflictError", "VisitRecords", "insert_visit_records", "make_visit_records")

import datetime
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import astropy.units as u
from astropy.time import Time, TimeDelta
from erfa import ErfaWarning

from lsst.daf.butler import Butler, Timespan
from lsst.images import Box, SkyProjection, VisitImage
from lsst.sphgeom import ConvexPolygon, UnitVector3d

from ..adapters import camera
from .instrument import VISIT_MAX, VISIT_SYSTEM_ID

_UNDATED = 19700101
"""The ``day_obs`` of images that do not say when they were taken."""

# The order is that of the foreign keys.
_ELEMENTS = (
    "physical_filter",
    "day_obs",
    "group",
    "exposure",
    "visit",
    "visit_definition",
    "visit_system_membership",
    "visit_detector_region",
)


class VisitConflictError(ValueError):
    """A visit is known to the repository with other properties."""


@dataclass(frozen=True)
class VisitRecords:
    """What the registry is told about one visit.

    Attributes
    ----------
    data_id : `dict`
        ``instrument``, ``visit`` and ``detector``.
    band : `str`
        Band of the exposure.
    rows : `dict` [ `str`, `dict` ]
        One row of values for each dimension element.
    """

    data_id: dict[str, Any]
    band: str
    rows: dict[str, dict[str, Any]]

    @property
    def visit(self) -> int:
        """Visit number (`int`)."""
        return self.data_id["visit"]

    @property
    def physical_filter(self) -> str:
        """Name of the filter (`str`)."""
        return self.rows["physical_filter"]["name"]


def make_visit_records(image: VisitImage, *, visit: int | None = None) -> VisitRecords:
    """Collect the dimension records of a visit from its image.

    Parameters
    ----------
    image : `lsst.images.VisitImage`
        The calibrated exposure. Times, pointing and program come from its
        ``obs_info``, the region from its WCS.
    visit : `int`, optional
        Visit number; if not given, that of the image's pixel frame, detector
        or ``obs_info``, in this order.

    Returns
    -------
    records : `VisitRecords`
        Rows for `insert_visit_records`.

    Raises
    ------
    ValueError
        If the image has no visit number, or one out of range.
    """
    number = _find_visit_number(image) if visit is None else visit
    if number is None:
        raise ValueError("the image carries no visit number; give one with --visit or --visit-key.")
    if not 0 <= number < VISIT_MAX:
        raise ValueError(f"visit must be in 0 .. {VISIT_MAX - 1}, got {number}.")
    instrument = {"instrument": camera.INSTRUMENT_NAME}
    begin, end = _find_times(image)
    day_obs, day_span = _observing_day(begin)
    timespan = None if begin is None or end is None else Timespan(begin, end)
    region = compute_region(image.sky_projection, image.bbox)
    name = f"{number:d}"
    common = {
        **instrument,
        "id": number,
        "physical_filter": image.physical_filter,
        "day_obs": day_obs,
        "seq_num": image.obs_info.observation_counter,
        "timespan": timespan,
        **_describe_observation(image),
    }
    exposure = {**common, "obs_id": name, "group": name, **_describe_exposure(image)}
    rows: dict[str, dict[str, Any]] = {
        "physical_filter": {**instrument, "name": image.physical_filter, "band": image.band},
        "day_obs": {**instrument, "id": day_obs, "timespan": day_span},
        "group": {**instrument, "name": name},
        "exposure": exposure,
        "visit": {**common, "name": name, "region": region},
        "visit_definition": {**instrument, "exposure": number, "visit": number},
        "visit_system_membership": {**instrument, "visit": number, "visit_system": VISIT_SYSTEM_ID},
        "visit_detector_region": {
            **instrument,
            "visit": number,
            "detector": camera.DETECTOR_ID,
            "region": region,
        },
    }
    data_id = {**instrument, "visit": number, "detector": camera.DETECTOR_ID}
    return VisitRecords(data_id=data_id, band=image.band, rows=rows)


def insert_visit_records(butler: Butler, records: Sequence[VisitRecords], *, replace: bool = False) -> None:
    """Make visits known to a registry, many in one transaction.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Butler of a writeable repository.
    records : sequence of `VisitRecords`
        What to insert; visits that are there already with the same filter are
        left as they are.
    replace : `bool`, optional
        Overwrite visits that are there already.

    Raises
    ------
    VisitConflictError
        If a visit is there with another filter and ``replace`` is not set, or
        a filter with another band. Nothing has been inserted then.
    """
    _check_filters(butler, records)
    known = _check_visits(butler, records, replace=replace)
    with butler.transaction():
        for element in _ELEMENTS:
            rows = [r.rows[element] for r in records]
            if replace and element in ("exposure", "visit", "visit_detector_region"):
                for record, row in zip(records, rows, strict=True):
                    if record.visit in known:
                        butler.registry.syncDimensionData(element, row, update=True)
            butler.registry.insertDimensionData(element, *_unique(rows), skip_existing=True)


def compute_region(projection: SkyProjection, bbox: Box) -> ConvexPolygon:
    """Return the sky region of the outer pixel edges of a box.

    Parameters
    ----------
    projection : `lsst.images.SkyProjection`
        Pixel to sky mapping.
    bbox : `lsst.images.Box`
        Pixels.

    Returns
    -------
    region : `lsst.sphgeom.ConvexPolygon`
        Convex hull of the four corners.
    """
    x0, x1 = bbox.x.start - 0.5, bbox.x.stop - 0.5
    y0, y1 = bbox.y.start - 0.5, bbox.y.stop - 0.5
    corners = [projection.pixel_to_sky(x=x, y=y) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
    return ConvexPolygon([UnitVector3d(*map(float, c.icrs.cartesian.xyz.value)) for c in corners])


def _unique(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Drop repeated rows (visits share nights and filters)."""
    seen = set()
    for row in rows:
        key = tuple(v for k, v in row.items() if k in ("id", "name", "visit", "exposure", "detector"))
        if key not in seen:
            seen.add(key)
            yield row


def _find_visit_number(image: VisitImage) -> int | None:
    for value in (
        image.sky_projection.pixel_frame.visit,
        image.detector.visit,
        image.obs_info.visit_id,
        image.obs_info.exposure_id,
    ):
        if value is not None:
            return int(value)
    return None


@contextmanager
def _quiet_time() -> Iterator[None]:
    """Silence warnings on leap seconds not yet announced (simulated future)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ErfaWarning)
        yield


def _find_times(image: VisitImage) -> tuple[Time | None, Time | None]:
    """Return begin and end of the exposure in TAI, `None` where unknown."""
    info = image.obs_info
    exposure_time = info.exposure_time if info.exposure_time is not None else 0.0 * u.s
    with _quiet_time():
        begin = None if info.datetime_begin is None else info.datetime_begin.tai
        end = None if info.datetime_end is None else info.datetime_end.tai
        if begin is None and end is not None:
            begin = end - TimeDelta(exposure_time)
        if end is None and begin is not None:
            end = begin + TimeDelta(exposure_time)
        if begin is not None and end is not None and end <= begin:
            # A timespan must not be empty; a millisecond stands for "an instant".
            end = begin + TimeDelta(1e-3 * u.s)
    return begin, end


def _observing_day(begin: Time | None) -> tuple[int, Timespan | None]:
    """Return the night as YYYYMMDD and its extent, noon to noon in TAI."""
    if begin is None:
        return _UNDATED, None
    with _quiet_time():
        date = (begin - TimeDelta(12.0 * u.h)).to_datetime().date()
        noon = Time(datetime.datetime.combine(date, datetime.time(12)), scale="tai")
        span = Timespan(noon, noon + TimeDelta(24.0 * u.h))
    return int(date.strftime("%Y%m%d")), span


def _describe_observation(image: VisitImage) -> dict[str, Any]:
    """Return the values that exposure and visit records share."""
    info = image.obs_info
    altaz = info.altaz_begin
    return {
        "exposure_time": None if info.exposure_time is None else float(info.exposure_time.to_value(u.s)),
        "target_name": info.object,
        "observation_reason": info.observation_reason,
        "science_program": info.science_program,
        "azimuth": None if altaz is None else float(altaz.az.to_value(u.deg)),
        "zenith_angle": None if altaz is None else 90.0 - float(altaz.alt.to_value(u.deg)),
    }


def _describe_exposure(image: VisitImage) -> dict[str, Any]:
    """Return the values that only an exposure record has."""
    info = image.obs_info
    radec, angle = info.tracking_radec, info.boresight_rotation_angle
    return {
        "observation_type": "science",
        "tracking_ra": None if radec is None else float(radec.icrs.ra.to_value(u.deg)),
        "tracking_dec": None if radec is None else float(radec.icrs.dec.to_value(u.deg)),
        "sky_angle": None if angle is None else float(angle.to_value(u.deg)),
        "can_see_sky": True,
    }


def _check_filters(butler: Butler, records: Sequence[VisitRecords]) -> None:
    """Refuse a filter that is known under, or given with, another band."""
    bands = {
        r.name: r.band
        for r in butler.query_dimension_records(
            "physical_filter", instrument=camera.INSTRUMENT_NAME, explain=False
        )
    }
    for record in records:
        known = bands.setdefault(record.physical_filter, record.band)
        if known != record.band:
            raise VisitConflictError(
                f"visit {record.visit}: filter {record.physical_filter!r} is of band {known!r} in this "
                f"repository, the image says {record.band!r}; correct the image or give --band {known}."
            )


def _check_visits(butler: Butler, records: Sequence[VisitRecords], *, replace: bool) -> set[int]:
    """Return the visits that are known; refuse those with another filter."""
    known: dict[int, str] = {}
    visits = sorted({r.visit for r in records})
    for first in range(0, len(visits), 500):
        rows = butler.query_dimension_records(
            "visit",
            instrument=camera.INSTRUMENT_NAME,
            where="visit IN (visits)",
            bind={"visits": visits[first : first + 500]},
            explain=False,
        )
        known.update({row.id: row.physical_filter for row in rows})
    for record in records:
        there = known.get(record.visit, record.physical_filter)
        if there != record.physical_filter and not replace:
            raise VisitConflictError(
                f"visit {record.visit} is in this repository with filter {there!r}, the image says "
                f"{record.physical_filter!r}; give another --visit, or --replace to overwrite it."
            )
    return set(known)
