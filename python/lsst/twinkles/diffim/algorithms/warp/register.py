"""Find the transform between two images of one piece of sky from the positions of their stars.

Triangles of neighbouring stars whose sides have equal ratios propose transforms; the one under which most
stars of both images meet wins, and is refined with all of them (after Groth 1986, doi:10.1086/114099, and
Valdes et al. 1995, doi:10.1086/133667). Nothing in it is drawn at random: the same images give the same
transform.
"""

from __future__ import annotations

__all__ = ("Registration", "RegistrationError", "register_stars")

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.spatial import cKDTree

# Stars that make triangles, neighbours of each that it makes them with.
_N_BRIGHT = 60
_N_NEIGHBOURS = 6
# Triangles are the same if their ratios of sides agree within this; thinner ones tell nothing.
_RATIO_TOLERANCE = 0.02
_MIN_RATIO = 0.1
_MIN_SIDE = 3.0
# Proposals that are tried, those first whose stars were proposed most often.
_N_PROPOSALS = 400
_MAX_SCALE = 5.0
# Stars meet within this many pixels at first, and at last within so many times the scatter.
_FIRST_RADIUS = 3.0
_CLIP = 4.0
_N_ITERATIONS = 8
# Stars a coefficient that a polynomial needs, and the gain in scatter that makes a higher order worth it.
_STARS_PER_TERM = 4
_GAIN = 0.95
_HIGHEST_ORDER = 3
# More stars have to meet than would by chance, times this.
_CHANCE = 2.0


class RegistrationError(ValueError):
    """Two lists of stars do not fit together.

    Attributes
    ----------
    n_first, n_second, n_matched : `int`
        Numbers of stars in the lists, and of those that could be matched.
    """

    def __init__(self, n_first: int, n_second: int, n_matched: int, n_needed: int) -> None:
        super().__init__(
            f"of {n_first} and {n_second} stars {n_matched} can be matched, {n_needed} are needed"
        )
        self.n_first, self.n_second, self.n_matched, self.n_needed = n_first, n_second, n_matched, n_needed

    def __reduce__(self) -> tuple:
        return type(self), (self.n_first, self.n_second, self.n_matched, self.n_needed)


@dataclass(frozen=True)
class Registration:
    """A polynomial transform from the pixels of one image to those of another.

    Attributes
    ----------
    coefficients : `numpy.ndarray`, ``(T, 2)``
        Coefficients of the terms ``u^i v^j`` for x and y; ``u, v`` are offsets from ``origin`` in pixels.
    exponents : `tuple` [`tuple` [`int`, `int`], ...]
        ``(i, j)`` of each term; constant and linear ones come first.
    origin : `tuple` [`float`, `float`]
        Position in the first image.
    n_matched : `int`
        Stars it was fitted to.
    scatter : `float`
        Scatter of a coordinate of theirs about it, in pixels.
    """

    coefficients: np.ndarray
    exponents: tuple[tuple[int, int], ...]
    origin: tuple[float, float]
    n_matched: int
    scatter: float

    @property
    def order(self) -> int:
        """Order of the polynomial (`int`)."""
        return max(i + j for i, j in self.exponents)

    def apply(self, *, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return positions in the second image of positions in the first."""
        u, v = np.asarray(x, float) - self.origin[0], np.asarray(y, float) - self.origin[1]
        terms = [u**i * v**j for i, j in self.exponents]
        return (
            sum(c * t for c, t in zip(self.coefficients[:, 0], terms, strict=True)),  # type: ignore[return-value]
            sum(c * t for c, t in zip(self.coefficients[:, 1], terms, strict=True)),
        )

    def largest_shift(self, shape: tuple[int, int]) -> float:
        """Return by how many pixels it moves a position of an image ``(Ny, Nx)`` at most."""
        y, x = np.meshgrid(np.linspace(0, shape[0] - 1, 9), np.linspace(0, shape[1] - 1, 9), indexing="ij")
        there_x, there_y = self.apply(x=x, y=y)
        return float(np.hypot(there_x - x, there_y - y).max())


def register_stars(first: np.ndarray, second: np.ndarray, *, min_matched: int) -> Registration:
    """Find the transform from one list of stars to another.

    Parameters
    ----------
    first, second : `numpy.ndarray`, ``(N, 2)`` and ``(M, 2)``
        Positions x, y of stars, brightest first.
    min_matched : `int`
        Least number of stars that have to meet.

    Returns
    -------
    registration : `Registration`
        From the first to the second: a rotation, a scale (up to 5), a shift and perhaps a reflection of any
        size, with small distortions of up to third order where there are enough stars.

    Raises
    ------
    RegistrationError
        If there is no transform under which so many stars meet.
    """
    needed = max(min_matched, 3)
    if min(len(first), len(second)) < needed:
        raise RegistrationError(len(first), len(second), 0, needed)
    affine, n_met = _best_proposal(first, second)
    if affine is None or n_met < needed:
        raise RegistrationError(len(first), len(second), n_met, needed)
    return _refine(first, second, affine, needed)


# Proposals -------------------------------------------------------------------


def _triangles(stars: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return triangles of neighbouring stars: vertices ``(T, 3)`` and ratios of sides ``(T, 2)``.

    The vertices are those opposite to the longest, the middle and the shortest side.
    """
    n = min(_N_NEIGHBOURS, len(stars) - 1)
    neighbours = cKDTree(stars).query(stars, k=n + 1)[1]
    found = {
        tuple(sorted((int(row[0]), int(a), int(b))))
        for row in neighbours
        for a, b in combinations(row[1:], 2)
    }
    vertices = np.array(sorted(found))
    corners = stars[vertices]
    sides = np.linalg.norm(corners[:, [1, 2, 0]] - corners[:, [2, 0, 1]], axis=2)  # opposite to each vertex
    order = np.argsort(-sides, axis=1)
    sides = np.take_along_axis(sides, order, axis=1)
    vertices = np.take_along_axis(vertices, order, axis=1)
    ratios = sides[:, 1:] / sides[:, :1]
    useful = (ratios[:, 1] > _MIN_RATIO) & (sides[:, 2] > _MIN_SIDE)
    return vertices[useful], ratios[useful]


def _best_proposal(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray | None, int]:
    """Return the affine transform ``(3, 2)`` of the proposal under which most bright stars meet."""
    a, b = first[:_N_BRIGHT], second[:_N_BRIGHT]
    (corners_a, ratios_a), (corners_b, ratios_b) = _triangles(a), _triangles(b)
    if not len(ratios_a) or not len(ratios_b):
        return None, 0
    pairs = cKDTree(ratios_a).query_ball_tree(cKDTree(ratios_b), _RATIO_TOLERANCE)
    there = [(i, j) for i, row in enumerate(pairs) for j in row]
    if not there:
        return None, 0
    index = np.array(there)
    matches = np.stack([corners_a[index[:, 0]], corners_b[index[:, 1]]], axis=2)  # (P, 3, 2)
    votes = np.zeros((len(a), len(b)))
    np.add.at(votes, (matches[..., 0], matches[..., 1]), 1.0)
    support = votes[matches[..., 0], matches[..., 1]].min(axis=1)
    order = np.argsort(-support, kind="stable")[:_N_PROPOSALS]
    tree, best, most = cKDTree(second[: 3 * _N_BRIGHT]), None, 0
    for match in matches[order]:
        affine = _similarity(a[match[:, 0]], b[match[:, 1]])
        if affine is None:
            continue
        distance = tree.query(
            _apply_affine(affine, first[: 3 * _N_BRIGHT]), distance_upper_bound=_FIRST_RADIUS
        )[0]
        n_met = int(np.isfinite(distance).sum())
        if n_met > most:
            best, most = affine, n_met
    return best, most


def _similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    """Return the rotation, scale, shift and reflection that fits three pairs, if there is one."""
    z, w = (p[:, 0] + 1j * p[:, 1] for p in (source, target))
    z0, w0 = z - z.mean(), w - w.mean()
    size = (np.abs(z0) ** 2).sum()
    best, residual = None, np.inf
    for mirrored in (False, True):
        q = np.conj(z0) if mirrored else z0
        factor = (np.conj(q) @ w0) / size
        left = (np.abs(w0 - factor * q) ** 2).sum()
        if left < residual:
            residual, best = left, (factor, mirrored)
    assert best is not None
    factor, mirrored = best
    if not 1 / _MAX_SCALE < abs(factor) < _MAX_SCALE:
        return None
    sign = -1.0 if mirrored else 1.0
    matrix = np.array([[factor.real, -sign * factor.imag], [factor.imag, sign * factor.real]])
    return np.vstack([target.mean(axis=0) - matrix @ source.mean(axis=0), matrix.T])


def _apply_affine(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    return affine[0] + points @ affine[1:]


# Refinement ------------------------------------------------------------------


def _refine(first: np.ndarray, second: np.ndarray, affine: np.ndarray, needed: int) -> Registration:
    """Fit a polynomial to all stars that meet, of the order that their number and scatter ask for."""
    origin = first.mean(axis=0)
    start = Registration(
        coefficients=np.vstack([_apply_affine(affine, origin[None])[0], affine[1:]]),
        exponents=((0, 0), (1, 0), (0, 1)),
        origin=(float(origin[0]), float(origin[1])),
        n_matched=0,
        scatter=_FIRST_RADIUS / _CLIP,
    )
    best = _fit(first, second, start, 1, needed)
    for order in range(2, _HIGHEST_ORDER + 1):
        n_terms = (order + 1) * (order + 2) // 2
        if best.n_matched < _STARS_PER_TERM * n_terms:
            break
        finer = _fit(first, second, best, order, needed)
        if finer.n_matched < best.n_matched * _GAIN or finer.scatter > _GAIN * best.scatter:
            break
        best = finer
    return best


def _fit(first: np.ndarray, second: np.ndarray, start: Registration, order: int, needed: int) -> Registration:
    """Match stars and fit in turns, until the matches stay the same."""
    exponents = tuple((total - j, j) for total in range(order + 1) for j in range(total + 1))
    current, matches, tree = start, None, cKDTree(second)
    for _ in range(_N_ITERATIONS):
        moved = np.stack(current.apply(x=first[:, 0], y=first[:, 1]), axis=1)
        radius = float(np.clip(_CLIP * np.sqrt(2) * current.scatter, 0.3, _FIRST_RADIUS))
        distance, nearest = tree.query(moved, distance_upper_bound=radius)
        there = np.isfinite(distance)
        # Of two stars that claim the same one, the nearer has it.
        place = np.flatnonzero(there)[np.argsort(distance[there], kind="stable")]
        _, unique = np.unique(nearest[place], return_index=True)
        place = np.sort(place[unique])
        least = max(needed + _CHANCE * _met_by_chance(len(first), second, radius), len(exponents) + 1)
        if len(place) < least:
            raise RegistrationError(len(first), len(second), len(place), math.ceil(least))
        found = tuple(zip(place.tolist(), nearest[place].tolist(), strict=True))
        if found == matches:
            break
        matches = found
        current = _least_squares(first[place], second[nearest[place]], exponents, start.origin)
    return current


def _met_by_chance(n: int, stars: np.ndarray, radius: float) -> float:
    """Return how many of ``n`` positions would have a star within a radius by chance."""
    area = max(float(np.prod(np.ptp(stars, axis=0))), 1.0)
    return n * min(1.0, len(stars) * np.pi * radius**2 / area)


def _least_squares(
    source: np.ndarray,
    target: np.ndarray,
    exponents: tuple[tuple[int, int], ...],
    origin: tuple[float, float],
) -> Registration:
    """Fit the polynomial to matched stars, leaving out those far off."""
    u, v = source[:, 0] - origin[0], source[:, 1] - origin[1]
    design = np.stack([u**i * v**j for i, j in exponents], axis=1)
    unit = np.abs(design).max(axis=0)
    unit[unit == 0] = 1.0
    kept = np.ones(len(source), dtype=bool)
    for _ in range(3):
        solution = np.linalg.lstsq(design[kept] / unit, target[kept], rcond=None)[0] / unit[:, None]
        residual = target - design @ solution
        free = max(kept.sum() - len(exponents), 1)
        scatter = float(np.sqrt((residual[kept] ** 2).sum() / (2 * free)))
        closer = np.hypot(*residual.T) < max(_CLIP * np.sqrt(2) * scatter, 1e-9)
        if closer.sum() <= len(exponents) + 1 or (closer == kept).all():
            break
        kept = closer
    return Registration(solution, exponents, origin, int(kept.sum()), scatter)
