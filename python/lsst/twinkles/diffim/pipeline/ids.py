"""Identifiers of DIA sources: unique over visits and detectors, 64 bit signed."""

from __future__ import annotations

__all__ = ("COUNTER_BITS", "DETECTOR_BITS", "VISIT_BITS", "DiaSourceIdFactory", "pack_visit", "unpack_visit")

import datetime

import numpy as np

VISIT_BITS = 36
DETECTOR_BITS = 8
COUNTER_BITS = 19

# Visits below this are packed as they are. Those of LSSTCam, day_obs * 100000
# + sequence number, are far larger but sparse: days are counted instead.
_PLAIN_VISITS = 2 ** (VISIT_BITS - 1)
_SEQUENCES_PER_DAY = 100_000
_FIRST_DAY = datetime.date(2000, 1, 1)


class DiaSourceIdFactory:
    """Numbers for the DIA sources of one visit and detector.

    Parameters
    ----------
    visit : `int`
        Visit number, either below 2**35 or of the form ``YYYYMMDDNNNNN``.
    detector : `int`
        Detector number, 0 to 255.

    Raises
    ------
    ValueError
        If a number is outside its range.

    Notes
    -----
    From the highest bit: sign (0), 36 bits of packed visit, 8 of detector, 19
    of a counter that starts at 1. All identifiers of one detector image are
    therefore contiguous and sort by visit.
    """

    def __init__(self, visit: int, detector: int) -> None:
        if not 0 <= detector < 2**DETECTOR_BITS:
            raise ValueError(f"detector must be in 0 .. {2**DETECTOR_BITS - 1} to be packed, got {detector}.")
        self.visit = int(visit)
        self.detector = int(detector)
        packed = (pack_visit(self.visit) << DETECTOR_BITS) | self.detector
        self.base = packed << COUNTER_BITS

    @property
    def max_sources(self) -> int:
        """Number of identifiers to be had (`int`)."""
        return 2**COUNTER_BITS - 1

    def __call__(self) -> int:
        """Return the first identifier; the others follow it (`int`)."""
        return self.base + 1

    def make(self, n: int) -> np.ndarray:
        """Return the first ``n`` identifiers, ``(n,)`` int64, increasing.

        Raises
        ------
        ValueError
            If ``n`` is negative or more than `max_sources`.
        """
        if not 0 <= n <= self.max_sources:
            raise ValueError(
                f"n must be in 0 .. {self.max_sources} for the sources of visit={self.visit} "
                f"detector={self.detector}, got {n}; raise the detection threshold."
            )
        return self.base + np.arange(1, n + 1, dtype=np.int64)

    @classmethod
    def unpack(cls, dia_source_id: int) -> tuple[int, int, int]:
        """Return the visit, detector and counter packed in an identifier."""
        packed, counter = divmod(int(dia_source_id), 2**COUNTER_BITS)
        visit, detector = divmod(packed, 2**DETECTOR_BITS)
        return unpack_visit(visit), detector, counter


def pack_visit(visit: int) -> int:
    """Return a visit as an unsigned number of `VISIT_BITS` bits.

    Parameters
    ----------
    visit : `int`
        Visit number, either below 2**35 or of the form ``YYYYMMDDNNNNN``.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if 0 <= visit < _PLAIN_VISITS:
        return visit
    day_obs, sequence = divmod(visit, _SEQUENCES_PER_DAY)
    try:
        days = (datetime.date(day_obs // 10000, day_obs // 100 % 100, day_obs % 100) - _FIRST_DAY).days
    except ValueError:
        days = -1
    packed = _PLAIN_VISITS + days * _SEQUENCES_PER_DAY + sequence
    if days < 0 or packed >= 2**VISIT_BITS:
        raise ValueError(
            f"visit must be in 0 .. {_PLAIN_VISITS - 1} or of the form YYYYMMDDNNNNN since the year "
            f"{_FIRST_DAY.year} to be packed into source identifiers, got {visit}."
        )
    return packed


def unpack_visit(packed: int) -> int:
    """Return the visit that `pack_visit` made ``packed`` from."""
    if packed < _PLAIN_VISITS:
        return packed
    days, sequence = divmod(packed - _PLAIN_VISITS, _SEQUENCES_PER_DAY)
    day = _FIRST_DAY + datetime.timedelta(days=days)
    return (day.year * 10000 + day.month * 100 + day.day) * _SEQUENCES_PER_DAY + sequence
