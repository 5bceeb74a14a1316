"""Rows of sources: flashes of a tumbling satellite, on a straight line."""

from __future__ import annotations

__all__ = ("find_rows",)

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import gammainc

# Neighbours of a source that are looked at, the nearest: where there are more, rows are a matter of chance.
_MOST_NEIGHBOURS = 30


def find_rows(
    x: np.ndarray, y: np.ndarray, *, radius: float, min_points: int, width: float, max_chance: float
) -> np.ndarray:
    """Find sources on straight lines that are not there by chance.

    Parameters
    ----------
    x, y : `numpy.ndarray`, ``(N,)``
        Positions in pixels; those that are not finite are on no line.
    radius : `float`
        Farthest that the others of a row may lie from one of it, pixels.
    min_points : `int`
        Least number of sources of a row, 3 at least.
    width : `float`
        Farthest that a source may lie from the line, pixels.
    max_chance : `float`
        Rows that would be expected by chance in the whole image, at most.

    Returns
    -------
    row : `numpy.ndarray`, ``(N,)``, int
        Number of the row of each source, from 1; 0 for those that are on none. The most significant row has
        the lowest number, and keeps a source that is on two.

    Notes
    -----
    A line through two of ``N`` sources has ``m`` others within ``width`` and the length ``L`` that they span
    with the probability ``P(m or more | n)`` of a Poisson distribution, of which ``n = 2 width L`` times the
    density of sources around is the mean. As many lines are tried as there are pairs; so many
    times this probability is what chance makes, and has to be below ``max_chance``.
    """
    row = np.zeros(len(x), dtype=int)
    finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if len(finite) < min_points:
        return row
    places = np.column_stack([x[finite], y[finite]])
    count = min(_MOST_NEIGHBOURS + 1, len(finite))
    distance, neighbours = cKDTree(places).query(places, k=count, distance_upper_bound=radius)
    trials = max(1, int(np.isfinite(distance[:, 1:]).sum()) // 2)
    found = []
    for i in range(len(finite)):
        others = neighbours[i, 1:][np.isfinite(distance[i, 1:])]
        best = _best_line(places[others] - places[i], min_points - 2, width)
        if best is not None and trials * best[0] <= max_chance:
            found.append((best[0], [i, *others[best[1]]]))
    number = 0
    for _, members in sorted(found, key=lambda item: item[0]):
        free = [k for k in members if row[finite[k]] == 0]
        if len(free) >= min_points:
            number += 1
            row[finite[free]] = number
    return row


def _best_line(offsets: np.ndarray, least: int, width: float) -> tuple[float, np.ndarray] | None:
    """Return the chance of the best line through the origin and one of some points, and which are on it."""
    distance = np.hypot(*offsets.T)
    if len(offsets) < least + 1 or not distance.min() > 0:
        return None
    directions = offsets / distance[:, None]
    across = np.abs(directions[:, :1] * offsets[:, 1] - directions[:, 1:] * offsets[:, 0])
    on = across <= width
    promising = np.flatnonzero(on.sum(axis=1) > least)
    best, chance = None, 1.0
    for line in promising:
        members = np.flatnonzero(on[line])
        expected = _expected_on(offsets, members, directions[line], width)
        new = float(gammainc(len(members) - 1, expected))
        if best is None or new < chance:
            best, chance = members, new
    return None if best is None else (chance, best)


def _expected_on(offsets: np.ndarray, members: np.ndarray, direction: np.ndarray, width: float) -> float:
    """Return how many points chance puts beside a piece of a line through the origin.

    Of all around and of those as near to its middle as its ends are the density is the higher one, without
    the members, so that a row does not hide itself.
    """
    along = np.append(offsets[members] @ direction, 0.0)
    span, middle = np.ptp(along), 0.5 * (along.max() + along.min()) * direction
    number = len(offsets) - len(members)
    near = np.hypot(*(offsets - middle).T) <= 0.5 * span
    near[members] = False
    area = np.pi * np.array([(offsets**2).sum(axis=1).max(), 0.25 * span**2])
    density = max(max(number, 1) / area[0], np.count_nonzero(near) / area[1])
    return 2.0 * width * span * density
