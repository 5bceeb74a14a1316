"""Straight trails of satellites and aircraft across a difference image."""

from __future__ import annotations

__all__ = ("Streak", "find_streaks", "streak_mask")

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d

from .streaks_nb import bin_significance, join_strips, sample_across

_PIXEL_CLIP = 3.0
_SAMPLE_CLIP = 30.0
_BLOCK = 24
_SHEAR = np.arange(-6, 7)
_END_SIGNIFICANCE = 1.0
_MIN_POSITIVE_BLOCKS = 0.75
_PIECE_SIGNIFICANCE = 3.0
_CONTINUITY = 0.25
"""The fainter tenth of a trail's pieces has at least this part of the light of the median one. Half way
between the stars of a row there is much less than a quarter way, unless they merge."""

_MASKED_LIGHT = 0.1
"""Mean significance of a pixel up to which a trail is masked: less adds 0.7 sigma to the flux of a PSF of
50 pixels."""


@dataclass(frozen=True)
class Streak:
    """A straight trail.

    Attributes
    ----------
    x0, y0, x1, y1 : `float`
        Its ends, pixels of the array.
    width : `float`
        Pixels across that it covers.
    significance : `float`
        Signed significance of all of its light.
    mean : `float`
        Median significance of the pixels on its middle.
    is_continuous : `bool`
        Whether there is light all along it, and not that of single sources in a row.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    width: float
    significance: float
    mean: float
    is_continuous: bool = True

    @property
    def length(self) -> float:
        """Length in pixels (`float`)."""
        return float(np.hypot(self.x1 - self.x0, self.y1 - self.y0))


def find_streaks(
    image: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    *,
    bin_factor: int,
    threshold: float,
    min_length: int,
    max_width: float,
    max_number: int,
) -> list[Streak]:
    """Find trails, the most significant first.

    Parameters
    ----------
    image, variance : `numpy.ndarray`, ``(Ny, Nx)``
        Difference with white noise and its variance.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels that are not used.
    bin_factor : `int`
        Pixels on a side of the squares that are summed first: about the width of the narrowest trails.
    threshold : `float`
        Least significance of a trail.
    min_length : `int`
        Least length in pixels.
    max_width : `float`
        Largest width in pixels.
    max_number : `int`
        Most trails, and most candidates, that are looked at.

    Returns
    -------
    streaks : `list` [`Streak`]
        Trails of either sign.

    Notes
    -----
    Sums along all lines come from the fast Radon transform (Brady 1998, doi:10.1137/S0097539793256673),
    whose partial sums find trails that end within the image, too (Nir, Zackay & Ofek 2018,
    doi:10.3847/1538-3881/aaddff). Pixels and squares are clipped at 3 sigma, so that a star is worth no
    more than a few sigma however bright, and a candidate has to be there along its whole length: in the
    median, in three quarters of its pieces, and without gaps in its light, as the bright stars of a row have.
    """
    shape = tuple(-(-side // bin_factor) for side in image.shape)
    binned = np.zeros(shape, dtype=np.float32)
    bin_significance(image, variance, bad, bin_factor, _PIXEL_CLIP, binned)
    found: list[Streak] = []
    for _ in range(max_number):
        line, significance = _strongest_line(binned, max(8, min_length // bin_factor))
        if abs(significance) < threshold:
            break
        ends = (np.asarray(line) + 0.5) * bin_factor - 0.5
        streak = _refine(image, variance, bad, ends, max_width=max_width)
        # What was found has to go, too, lest it be found again: the trail may run elsewhere.
        _erase(binned, ends, 2.0 * bin_factor, bin_factor)
        if streak is not None and abs(streak.significance) >= threshold and streak.length >= min_length:
            if streak.is_continuous:
                found.append(streak)
            ends = np.array([streak.x0, streak.y0, streak.x1, streak.y1])
            _erase(binned, ends, streak.width, bin_factor)
    return found


def streak_mask(streaks: list[Streak], shape: tuple[int, int]) -> np.ndarray:
    """Return the pixels that trails cover, ``(Ny, Nx)``, bool."""
    mask = np.zeros(shape, dtype=bool)
    for streak in streaks:
        _paint(mask, np.array([streak.x0, streak.y0, streak.x1, streak.y1]), streak.width / 2)
    return mask


def _strongest_line(binned: np.ndarray, min_height: int) -> tuple[tuple[float, float, float, float], float]:
    """Return the line (x0, y0, x1, y1) of the most significant sum, and its significance."""
    best, ends = 0.0, (0.0, 0.0, 0.0, 0.0)
    for transposed in (False, True):
        for flipped in (False, True):
            view = binned.T if transposed else binned
            view = view[:, ::-1] if flipped else view
            for height, strips in _line_sums(np.ascontiguousarray(view)):
                if height < min_height:
                    continue
                low, high = float(strips.min()), float(strips.max())
                value = (high if high >= -low else low) / np.sqrt(height)
                if abs(value) <= abs(best):
                    continue
                best = value
                place = int(strips.argmax() if value > 0 else strips.argmin())
                strip, shift, x = np.unravel_index(place, strips.shape)
                line = [float(x), float(strip * height), float(x + shift), float(strip * height + height - 1)]
                if flipped:
                    line[0], line[2] = view.shape[1] - 1 - line[0], view.shape[1] - 1 - line[2]
                ends = (line[1], line[0], line[3], line[2]) if transposed else tuple(line)  # type: ignore[assignment]
    return ends, best


def _line_sums(image: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield height and sums of strips of ever twice as many rows."""
    ny, nx = image.shape
    strips = np.zeros((1 << (ny - 1).bit_length(), 1, nx), dtype=np.float32)
    strips[:ny, 0] = image
    height = 1
    while len(strips) > 1:
        joined = np.empty((len(strips) // 2, 2 * height, nx), dtype=np.float32)
        join_strips(strips, joined)
        strips, height = joined, 2 * height
        yield height, strips


@dataclass(frozen=True)
class _Course:
    """A line that is looked at: first point and direction."""

    x: float
    y: float
    dx: float
    dy: float
    length: int

    @classmethod
    def through(cls, ends: np.ndarray) -> _Course:
        length = max(1.0, float(np.hypot(ends[2] - ends[0], ends[3] - ends[1])))
        return cls(
            ends[0], ends[1], (ends[2] - ends[0]) / length, (ends[3] - ends[1]) / length, int(length) + 1
        )

    def point(self, along: float, across: float) -> tuple[float, float]:
        return (
            self.x + along * self.dx - across * self.dy,
            self.y + along * self.dy + across * self.dx,
        )


def _refine(
    image: np.ndarray, variance: np.ndarray, bad: np.ndarray, ends: np.ndarray, *, max_width: float
) -> Streak | None:
    """Find where a trail runs, ends and fades at full resolution; `None` if it is none."""
    half = int(np.ceil(max_width / 2)) + 8
    sign = 0.0
    for extend in (False, True, False):
        # First the piece that was found, then beyond its ends, then the whole for the last time.
        course = _extend(_Course.through(ends), image.shape) if extend else _Course.through(ends)
        samples = _sample(image, variance, bad, course, half, _SAMPLE_CLIP)
        blocks = _block_sums(np.clip(samples, -_PIXEL_CLIP, _PIXEL_CLIP))
        if len(blocks) == 0:
            return None
        start, stop, centre, sign = _straighten(blocks, sign)
        if extend:
            first, last = _find_ends(blocks, start, stop, centre, sign)
        else:
            first, last = 0, len(blocks)
        along = np.array([first, last]) * course.length / len(blocks)
        slope = (stop - start) / max(len(blocks) - 1, 1)
        across = centre - half + start + slope * (np.array([first, last]) - 0.5)
        ends = np.array([*course.point(along[0], across[0]), *course.point(along[1], across[1])])
    return _describe(image, variance, bad, ends, sign, half)


def _extend(course: _Course, shape: tuple[int, int]) -> _Course:
    """Return the course from rim to rim."""
    low, high = -np.inf, np.inf
    for place, step, size in ((course.x, course.dx, shape[1]), (course.y, course.dy, shape[0])):
        if abs(step) > 1e-9:
            a, b = sorted(((-0.5 - place) / step, (size - 0.5 - place) / step))
            low, high = max(low, a), min(high, b)
    x, y = course.point(low, 0.0)
    return _Course(x, y, course.dx, course.dy, max(1, int(high - low)))


def _block_sums(samples: np.ndarray) -> np.ndarray:
    """Return sums along the line over blocks of pixels, over the root of their number, ``(B, W)``."""
    n_blocks = max(1, len(samples) // _BLOCK)
    edges = np.linspace(0, len(samples), n_blocks + 1).astype(int)[:-1]
    good = np.isfinite(samples)
    total = np.add.reduceat(np.where(good, samples, 0.0), edges, axis=0)
    number = np.add.reduceat(good.astype(np.float32), edges, axis=0)
    return total / np.sqrt(np.maximum(number, 1.0))


def _straighten(blocks: np.ndarray, sign: float) -> tuple[int, int, int, float]:
    """Return the shifts across of the two ends that make the sum highest, its column and sign."""
    best: tuple[float, int, int, int, float] = (-1.0, 0, 0, 0, 1.0)
    n, width = blocks.shape
    rows = np.arange(n)
    for start in _SHEAR:
        for stop in _SHEAR:
            shift = np.round(start + (stop - start) * rows / max(n - 1, 1)).astype(int)
            columns = np.clip(np.arange(width)[None] + shift[:, None], 0, width - 1)
            total = uniform_filter1d(np.take_along_axis(blocks, columns, axis=1).sum(axis=0), 3)
            for s in (1.0, -1.0) if sign == 0.0 else (sign,):
                column = int(np.argmax(s * total))
                if s * total[column] > best[0]:
                    best = (float(s * total[column]), int(start), int(stop), column, s)
    return best[1], best[2], best[3], best[4]


def _find_ends(blocks: np.ndarray, start: int, stop: int, centre: int, sign: float) -> tuple[int, int]:
    """Return the run of blocks whose sum of significance, less one each, is highest."""
    n, width = blocks.shape
    shift = np.round(start + (stop - start) * np.arange(n) / max(n - 1, 1)).astype(int)
    columns = np.clip(centre + shift[:, None] + np.arange(-1, 2)[None], 0, width - 1)
    value = sign * np.take_along_axis(blocks, columns, axis=1).sum(axis=1) / np.sqrt(3.0)
    gain = np.concatenate([[0.0], np.cumsum(np.minimum(value, 5.0) - _END_SIGNIFICANCE)])
    lowest = np.minimum.accumulate(gain)
    last = int(np.argmax(gain - lowest))
    first = int(np.argmin(gain[: last + 1]))
    return first, max(last, first + 1)


def _describe(
    image: np.ndarray, variance: np.ndarray, bad: np.ndarray, ends: np.ndarray, sign: float, half: int
) -> Streak | None:
    """Measure a trail between its ends; `None` if it is not there along its length."""
    course = _Course.through(ends)
    samples = _sample(image, variance, bad, course, half, _SAMPLE_CLIP)
    covered: np.ndarray = np.isfinite(samples).sum(axis=0) >= max(8, course.length // 4)
    if not covered[half]:
        return None
    profile = np.full(len(covered), 0.0)
    profile[covered] = sign * np.nanmedian(samples[:, covered], axis=0)
    profile = uniform_filter1d(profile, 3)
    middle = half + int(np.argmax(profile[half - 3 : half + 4])) - 3
    noise = 1.25 / np.sqrt(course.length)
    level = max(_MASKED_LIGHT, 2.0 * noise)
    left, right = middle, middle
    while left > 0 and profile[left - 1] > level:
        left -= 1
    while right < len(profile) - 1 and profile[right + 1] > level:
        right += 1
    core = np.clip(sign * samples[:, max(0, middle - 1) : middle + 2], -_PIXEL_CLIP, _PIXEL_CLIP)
    pieces = _block_sums(core).sum(axis=1)
    if profile[middle] < level or (pieces > 0).mean() < _MIN_POSITIVE_BLOCKS:
        return None
    light = _sample(image, variance, bad, course, half, np.inf)[:, max(0, middle - 1) : middle + 2]
    shift = (left + right) / 2 - half
    (x0, y0), (x1, y1) = course.point(0.0, shift), course.point(course.length - 1.0, shift)
    number = int(np.count_nonzero(np.isfinite(core)))
    return Streak(
        x0, y0, x1, y1,
        width=right - left + 3.0,
        significance=sign * float(np.nansum(core)) / max(number, 1) ** 0.5,
        mean=sign * float(profile[middle]),
        is_continuous=_is_continuous(sign * light),
    )  # fmt: skip


def _sample(
    image: np.ndarray, variance: np.ndarray, bad: np.ndarray, course: _Course, half: int, clip: float
) -> np.ndarray:
    """Return significances on and beside a line, clipped, ``(length, 2 half + 1)``, NaN without data."""
    samples = np.empty((course.length, 2 * half + 1), dtype=np.float32)
    where = course.x, course.y, course.dx, course.dy, course.length, half
    sample_across(image, variance, bad, *where, np.float32(clip), samples)
    return samples


def _is_continuous(light: np.ndarray) -> bool:
    """Tell whether light along a line, ``(length, columns)``, has no gaps, in pieces long enough to tell."""
    good = np.isfinite(light)
    number = good.sum(axis=1)
    total = np.where(good, light, 0.0).sum(axis=1)
    usable = number > 0
    height = float(np.median(total[usable] / number[usable]))
    if height <= 0.0:
        return False
    pixels = _PIECE_SIGNIFICANCE**2 / height**2 / light.shape[1]
    length = int(np.clip(np.ceil(pixels), 1, max(1, len(light) // 4)))
    starts = np.arange(0, len(light) - length + 1, length)
    number, total = (np.add.reduceat(v, starts)[: len(starts)] for v in (number, total))
    pieces = total[number > 0] / number[number > 0]
    if np.median(pieces) <= 0.0:
        return False
    # The ends are known to a block only.
    bright = np.flatnonzero(pieces > 0.5 * np.median(pieces))
    low, middle = np.quantile(pieces[bright[0] : bright[-1] + 1], (0.1, 0.5))
    return bool(low >= _CONTINUITY * middle)


def _erase(binned: np.ndarray, ends: np.ndarray, width: float, factor: int) -> None:
    """Set the squares that a line covers to 0, in place."""
    mask = np.zeros(binned.shape, dtype=bool)
    _paint(mask, (ends + 0.5) / factor - 0.5, width / 2 / factor + 1.5)
    binned[mask] = 0.0


def _paint(mask: np.ndarray, ends: np.ndarray, half: float) -> None:
    """Set the pixels within a distance of the line between two points, in place."""
    x0, y0, x1, y1 = ends
    length = max(float(np.hypot(x1 - x0, y1 - y0)), 1e-9)
    dx, dy = (x1 - x0) / length, (y1 - y0) / length
    reach = half + 1.0
    for y in range(max(0, int(min(y0, y1) - reach)), min(mask.shape[0], int(max(y0, y1) + reach) + 2)):
        low, high = _row_range(x0, y0, dx, dy, length, half, y)
        if high >= low:
            mask[y, max(0, int(np.ceil(low))) : max(0, int(np.floor(high)) + 1)] = True


def _row_range(
    x0: float, y0: float, dx: float, dy: float, length: float, half: float, y: float
) -> tuple[float, float]:
    """Return the columns of a row that lie within a rectangle around a line."""
    low, high = -np.inf, np.inf
    # Along: -half <= (x - x0) dx + (y - y0) dy <= length + half; across: |(y - y0) dx - (x - x0) dy| <= half.
    for slope, offset, least, most in (
        (dx, (y - y0) * dy - x0 * dx, -half, length + half),
        (-dy, (y - y0) * dx + x0 * dy, -half, half),
    ):
        if abs(slope) < 1e-12:
            if not least <= offset <= most:
                return 1.0, 0.0
            continue
        a, b = sorted(((least - offset) / slope, (most - offset) / slope))
        low, high = max(low, a), min(high, b)
    return low, high
