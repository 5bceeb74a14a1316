"""The service that knows where satellites were, asked as the stack asks it.

It takes what was detected on an exposure, and answers which of it may be made public. Nothing is sent unless
``run_sattle`` is set, and then to the address in the environment variable ``SATTLE_URI_BASE``.
"""

from __future__ import annotations

__all__ = ("ADDRESS_VARIABLE", "find_allowed")

import logging
import os
from typing import Any

import numpy as np

ADDRESS_VARIABLE = "SATTLE_URI_BASE"
_LOG = logging.getLogger(__name__)
_NO_SUCH_VISIT = 404
_TIMEOUT_S = 60.0
_SECONDS_PER_DAY = 86400.0


def find_allowed(sources: Any, science: Any, *, historical: bool) -> np.ndarray:
    """Ask which sources are no satellites.

    Parameters
    ----------
    sources : `lsst.afw.table.SourceCatalog`
        Detections, with footprints; the corners of their boxes are sent.
    science : `lsst.afw.image.ExposureF`
        Exposure, with coordinates, detector and what is known of the visit.
    historical : `bool`
        Whether it is not of today: where the service has to learn of the visit first, it is told so.

    Returns
    -------
    allowed : `numpy.ndarray`, ``(N,)``, bool
        Those that may stay.

    Raises
    ------
    requests.RequestException
        If the service cannot be reached or does not answer as it should.
    """
    visit = science.info.getVisitInfo()
    question = {
        "visit_id": visit.getId(),
        "detector_id": science.getDetector().getId(),
        "diasources": [_describe(source, science.getWcs()) for source in sources],
        "historical": historical,
    }
    answer = _put("diasource_allow_list", question)
    if answer.status_code == _NO_SUCH_VISIT:
        _LOG.warning("The satellite service does not know visit %s: it is told of it.", visit.getId())
        _put("visit_cache", _describe_visit(visit, historical)).raise_for_status()
        answer = _put("diasource_allow_list", question)
    answer.raise_for_status()
    return np.isin(np.asarray(sources["id"]), np.array(answer.json()["allow_list"], dtype=np.int64))


def _put(resource: str, content: dict[str, Any]) -> Any:
    import requests

    return requests.put(f"{os.environ[ADDRESS_VARIABLE]}/{resource}", json=content, timeout=_TIMEOUT_S)


def _describe(source: Any, wcs: Any) -> dict[str, Any]:
    """Return number and corners (degrees) of a source."""
    box = source.getFootprint().getBBox()
    x = np.array([box.getMinX(), box.getMaxX(), box.getMaxX(), box.getMinX()], dtype=float)
    y = np.array([box.getMinY(), box.getMinY(), box.getMaxY(), box.getMaxY()], dtype=float)
    ra, dec = wcs.pixelToSkyArray(x, y, degrees=True)
    return {"diasource_id": int(source["id"]), "bbox": np.stack([ra, dec], axis=1).tolist()}


def _describe_visit(visit: Any, historical: bool) -> dict[str, Any]:
    """Return number, time (MJD, TAI) and direction (degrees) of a visit."""
    middle = visit.getDate().toAstropy().mjd
    half = visit.getExposureTime() / _SECONDS_PER_DAY / 2
    direction = visit.boresightRaDec
    return {
        "visit_id": visit.getId(),
        "exposure_start_mjd": middle - half,
        "exposure_end_mjd": middle + half,
        "boresight_ra": direction.getRa().asDegrees(),
        "boresight_dec": direction.getDec().asDegrees(),
        "historical": historical,
    }
