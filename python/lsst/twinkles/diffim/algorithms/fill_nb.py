"""Replacement of bad pixels before a Fourier transform."""

from __future__ import annotations

__all__ = ("fill_rows", "fill_trails", "scatter_kernel", "spread_mask")

from .compile_nb import njit


@njit(cache=True, nogil=True)
def fill_rows(begin, end, image, bad, longest, other):  # type: ignore[no-untyped-def]
    """Interpolate linearly over runs of bad pixels along x, in place, in rows from ``begin`` to ``end``.

    Runs longer than ``longest`` pixels, and those that reach the rim, take ``other``.
    """
    nx = image.shape[1]
    for y in range(begin, end):
        x = 0
        while x < nx:
            if not bad[y, x]:
                x += 1
                continue
            start = x
            while x < nx and bad[y, x]:
                x += 1
            inside = start > 0 and x < nx and x - start <= longest
            for k in range(start, x):
                if inside:
                    w = (k - start + 1) / (x - start + 1)
                    image[y, k] = (1.0 - w) * image[y, start - 1] + w * image[y, x]
                else:
                    image[y, k] = other


@njit(cache=True, nogil=True)
def fill_trails(begin, end, image, saturated, profile, longest, filled):  # type: ignore[no-untyped-def]
    """Interpolate linearly over saturated runs along x that are bleed trails, in place, in some rows.

    A run is a trail if both its neighbours are fainter than half of what a star in its middle would be:
    ``profile`` holds the PSF over its peak by the distance in pixels. Runs longer than
    ``longest``, and those that reach the rim, are left alone. ``filled`` is set where pixels were replaced.
    """
    nx = image.shape[1]
    for y in range(begin, end):
        x = 0
        while x < nx:
            if not saturated[y, x]:
                x += 1
                continue
            start = x
            highest = image[y, x]
            while x < nx and saturated[y, x]:
                highest = max(highest, image[y, x])
                x += 1
            if start == 0 or x == nx or x - start > longest:
                continue
            distance = min((x - start) // 2 + 1, len(profile) - 1)
            left, right = image[y, start - 1], image[y, x]
            if max(left, right) < 0.5 * profile[distance] * highest:
                for k in range(start, x):
                    w = (k - start + 1) / (x - start + 1)
                    image[y, k] = (1.0 - w) * left + w * right
                    filled[y, k] = True


@njit(cache=True, nogil=True)
def spread_mask(begin, end, bad, dy, dx, out):  # type: ignore[no-untyped-def]
    """Set ``out`` in some rows where any of the pixels at the given offsets is bad."""
    ny, nx = bad.shape
    for y in range(begin, end):
        for k in range(len(dy)):
            yy = y - dy[k]
            if yy < 0 or yy >= ny:
                continue
            for x in range(nx):
                if bad[yy, x]:
                    xx = x + dx[k]
                    if 0 <= xx < nx:
                        out[y, xx] = True


@njit(cache=True, nogil=True)
def scatter_kernel(rows, cols, values, kernel, out):  # type: ignore[no-untyped-def]
    """Add a kernel times a value around each of some pixels."""
    ny, nx = out.shape
    half = kernel.shape[0] // 2
    for k in range(len(rows)):
        for j in range(max(0, rows[k] - half), min(ny, rows[k] + half + 1)):
            for i in range(max(0, cols[k] - half), min(nx, cols[k] + half + 1)):
                out[j, i] += values[k] * kernel[j - rows[k] + half, i - cols[k] + half]
