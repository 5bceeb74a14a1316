"""Positions and fluxes of point sources."""

from __future__ import annotations

__all__ = ("ForcedFluxes", "PsfFits", "fit_point_sources", "measure_forced_fluxes", "shift_stamps")

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from scipy.spatial import cKDTree

from ..match.prefilter import cut_stamps
from ..psf_grid import PsfGrid

_CHUNK = 256


@dataclass(frozen=True)
class PsfFits:
    """Fits of a point source to each position; all ``(N,)``.

    Attributes
    ----------
    x, y : `numpy.ndarray`
        Centroids in pixels of the array.
    x_error, y_error, xy_covariance : `numpy.ndarray`
        Their standard errors and covariance.
    flux, flux_error : `numpy.ndarray`
        PSF flux at the centroid and its standard error (position free).
    chi2, n_pixels : `numpy.ndarray`
        Chi square of the fit and pixels that went in.
    failed : `numpy.ndarray`, bool
        No centroid was found: the position is that of the peak, the errors are NaN.
    """

    x: np.ndarray
    y: np.ndarray
    x_error: np.ndarray
    y_error: np.ndarray
    xy_covariance: np.ndarray
    flux: np.ndarray
    flux_error: np.ndarray
    chi2: np.ndarray
    n_pixels: np.ndarray
    failed: np.ndarray

    def scaled(self, factor: float) -> PsfFits:
        """Return the same with errors multiplied by a factor."""
        return replace(
            self,
            x_error=self.x_error * factor,
            y_error=self.y_error * factor,
            xy_covariance=self.xy_covariance * factor**2,
            flux_error=self.flux_error * factor,
        )


@dataclass(frozen=True)
class ForcedFluxes:
    """PSF fluxes at given positions; all ``(N,)``, NaN where no pixel could be used."""

    flux: np.ndarray
    error: np.ndarray
    n_pixels: np.ndarray


def shift_stamps(
    stamps: np.ndarray, *, dx: np.ndarray, dy: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shift stamps by fractions of a pixel in Fourier space.

    Parameters
    ----------
    stamps : `numpy.ndarray`, ``(N, S, S)``
        Stamps that vanish towards their edges.
    dx, dy : `numpy.ndarray`, ``(N,)``
        Shifts in pixels.

    Returns
    -------
    shifted, slope_x, slope_y : `numpy.ndarray`, ``(N, S, S)``
        Shifted stamps, and their derivatives with respect to the shifts.
    """
    size = stamps.shape[-1]
    side = scipy.fft.next_fast_len(size + 4, real=True)
    ky = 2.0 * np.pi * np.fft.fftfreq(side)[:, None]
    kx = 2.0 * np.pi * np.fft.rfftfreq(side)[None, :]
    spectrum = scipy.fft.rfft2(stamps, s=(side, side))
    phase = np.exp(-1j * (kx[None] * dx[:, None, None] + ky[None] * dy[:, None, None]))
    spectrum = spectrum * phase
    images = (
        scipy.fft.irfft2(s, s=(side, side))[:, :size, :size]
        for s in (spectrum, spectrum * (-1j * kx), spectrum * (-1j * ky))
    )
    return tuple(images)  # type: ignore[return-value]


def fit_point_sources(
    image: np.ndarray,
    weight: np.ndarray,
    psf: PsfGrid,
    *,
    x: np.ndarray,
    y: np.ndarray,
    half: int,
    max_shift: float,
    iterations: int,
    rounds: int,
) -> PsfFits:
    """Fit position and flux of point sources, each with its neighbours taken away.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Image with white noise, finite where ``weight`` is positive.
    weight : `numpy.ndarray`, ``(Ny, Nx)``
        Inverse variance; 0 for pixels that are not used.
    psf : `PsfGrid`
        PSF.
    x, y : `numpy.ndarray`, ``(N,)``
        First positions, in pixels of the array.
    half : `int`
        Half side of the squares of pixels that are fitted.
    max_shift : `float`
        Farthest a centroid may move from its first position, pixels.
    iterations : `int`
        Gauss-Newton steps in each round.
    rounds : `int`
        How often neighbours are subtracted and the fits made again.

    Returns
    -------
    fits : `PsfFits`
        Results in the order of the positions.

    Notes
    -----
    Least squares with the linearised model ``f P + f dx dP/dx + f dy dP/dy``; the errors are those of the
    inverse of its normal matrix.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    first = (x.copy(), y.copy())
    stamps = psf.evaluate(x=x, y=y) if len(x) else np.zeros((0, psf.size, psf.size))
    state = [np.zeros(len(x)) for _ in range(10)]
    state[0], state[1] = x.copy(), y.copy()
    index = np.arange(len(x))
    for number in range(max(1, rounds)):
        flux = np.nan_to_num(state[5])
        residual = image if number == 0 else _residual(image, stamps, state[0], state[1], flux)
        for start in range(0, len(index), _CHUNK):
            p = index[start : start + _CHUNK]
            fitted = _fit_chunk(
                residual, weight, stamps[p], state[0][p], state[1][p], flux[p], first[0][p], first[1][p],
                half=half, max_shift=max_shift, iterations=iterations,
            )  # fmt: skip
            for column, values in zip(state, fitted, strict=True):
                column[p] = values
        if number == 0:
            index = _with_neighbours(x, y, 2.0 * half)
        if len(index) == 0:
            break
    state[8:] = [state[8].astype(int), state[9].astype(bool)]
    return PsfFits(*state)


def _with_neighbours(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Return the indices of positions that have another one within a radius."""
    if len(x) < 2:
        return np.zeros(0, dtype=int)
    positions = np.column_stack([x, y])
    distance, _ = cKDTree(positions).query(positions, k=2)
    return np.flatnonzero(distance[:, 1] < radius)


def _fit_chunk(
    residual: np.ndarray,
    weight: np.ndarray,
    psf: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    flux: np.ndarray,
    x_first: np.ndarray,
    y_first: np.ndarray,
    *,
    half: int,
    max_shift: float,
    iterations: int,
) -> tuple[np.ndarray, ...]:
    """Fit some sources; their own model of ``flux`` at ``x, y`` has been subtracted from ``residual``."""
    ix, iy = np.round(x).astype(int), np.round(y).astype(int)
    w = _cut_weight(weight, ix, iy, half)
    data = np.where(w > 0, cut_stamps(residual, ix, iy, half), 0.0).astype(float)
    own, _, _ = _models(psf, x - ix, y - iy, half)
    data += flux[:, None, None] * own
    cx, cy = x.copy(), y.copy()
    for _ in range(iterations):
        normal, moment, _ = _normal_equations(psf, data, w, cx - ix, cy - iy, half)
        step = _solve(normal, moment)[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            dx, dy = np.clip(step[:, 1] / step[:, 0], -0.5, 0.5), np.clip(step[:, 2] / step[:, 0], -0.5, 0.5)
        cx, cy = cx + np.nan_to_num(dx), cy + np.nan_to_num(dy)
    normal, moment, models = _normal_equations(psf, data, w, cx - ix, cy - iy, half)
    solution, covariance = _solve(normal, moment)
    best = solution[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        cx, cy = cx + solution[:, 1] / best, cy + solution[:, 2] / best
        xx, yy, xy = (covariance[:, i, j] / best**2 for i, j in ((1, 1), (2, 2), (1, 2)))
    failed = ~(np.hypot(cx - x_first, cy - y_first) <= max_shift) | ~np.isfinite(best)
    ny, nx = residual.shape
    failed |= ~((cx >= -0.5) & (cx <= nx - 0.5) & (cy >= -0.5) & (cy <= ny - 0.5))
    forced = np.where(failed)[0]
    cx, cy = np.where(failed, x_first, cx), np.where(failed, y_first, cy)
    error = np.sqrt(covariance[:, 0, 0])
    if len(forced):
        normal, moment, again = _normal_equations(psf, data, w, cx - ix, cy - iy, half)
        models[forced] = again[forced]
        with np.errstate(divide="ignore", invalid="ignore"):
            best[forced] = (moment[:, 0] / normal[:, 0, 0])[forced]
            error[forced] = normal[forced, 0, 0] ** -0.5
    chi2 = (w * (data - np.nan_to_num(best)[:, None, None] * models) ** 2).sum(axis=(1, 2))
    gone = np.where(failed, np.nan, 1.0)
    return (
        cx, cy, np.sqrt(xx) * gone, np.sqrt(yy) * gone, xy * gone, best, error, chi2,
        (w > 0).sum(axis=(1, 2)), failed,
    )  # fmt: skip


def _models(psf: np.ndarray, dx: np.ndarray, dy: np.ndarray, half: int) -> tuple[np.ndarray, ...]:
    """Return the PSF and its slopes on squares around the nearest pixel; zero beyond the PSF stamp."""
    images = shift_stamps(psf, dx=dx, dy=dy)
    change = half - psf.shape[-1] // 2
    if change > 0:
        return tuple(np.pad(a, ((0, 0), (change, change), (change, change))) for a in images)
    return tuple(a[:, -change : a.shape[1] + change, -change : a.shape[2] + change] for a in images)


def _cut_weight(weight: np.ndarray, ix: np.ndarray, iy: np.ndarray, half: int) -> np.ndarray:
    """Cut the weights; pixels beyond the rim have none."""
    cut = cut_stamps(weight, ix, iy, half).astype(float)
    offset = np.arange(-half, half + 1)
    ny, nx = weight.shape
    rows, cols = iy[:, None] + offset, ix[:, None] + offset
    inside = ((rows >= 0) & (rows < ny))[:, :, None] & ((cols >= 0) & (cols < nx))[:, None, :]
    return np.where(inside, cut, 0.0)


def _normal_equations(
    psf: np.ndarray, data: np.ndarray, w: np.ndarray, dx: np.ndarray, dy: np.ndarray, half: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    features = np.stack(_models(psf, dx, dy, half), axis=1).reshape(len(psf), 3, -1)
    weighted = features * w.reshape(len(psf), 1, -1)
    normal = weighted @ features.transpose(0, 2, 1)
    moment = (weighted @ data.reshape(len(psf), -1, 1))[:, :, 0]
    return normal, moment, features[:, 0].reshape(data.shape)


def _solve(normal: np.ndarray, moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Solve many 3 x 3 systems; NaN where singular."""
    scale = np.sqrt(np.maximum(np.diagonal(normal, axis1=1, axis2=2), 0.0))
    usable = (scale > 0).all(axis=1)
    inverse = np.full(normal.shape, np.nan)
    scale = np.where(usable[:, None], scale, 1.0)
    unit = normal / scale[:, :, None] / scale[:, None, :]
    usable &= np.linalg.det(unit) > 1e-9
    inverse[usable] = np.linalg.inv(unit[usable])
    covariance = inverse / scale[:, :, None] / scale[:, None, :]
    return np.einsum("nij,nj->ni", covariance, moment), covariance


def _residual(
    image: np.ndarray, psf: np.ndarray, x: np.ndarray, y: np.ndarray, flux: np.ndarray
) -> np.ndarray:
    """Return the image without the sources."""
    out = np.array(image, dtype=float)
    half = psf.shape[-1] // 2
    ny, nx = image.shape
    for start in range(0, len(x), _CHUNK):
        p = slice(start, start + _CHUNK)
        ix, iy = np.round(x[p]).astype(int), np.round(y[p]).astype(int)
        shifted, _, _ = shift_stamps(psf[p], dx=x[p] - ix, dy=y[p] - iy)
        for model, f, cx, cy in zip(shifted, flux[p], ix, iy, strict=True):
            x0, x1, y0, y1 = (
                max(0, cx - half),
                min(nx, cx + half + 1),
                max(0, cy - half),
                min(ny, cy + half + 1),
            )
            cut = model[y0 - cy + half : y1 - cy + half, x0 - cx + half : x1 - cx + half]
            out[y0:y1, x0:x1] -= f * cut
    return out


def measure_forced_fluxes(
    image: np.ndarray, weight: np.ndarray, psf: PsfGrid, *, x: np.ndarray, y: np.ndarray, half: int
) -> ForcedFluxes:
    """Measure PSF fluxes at given positions.

    Parameters
    ----------
    image, weight, psf, half
        As in `fit_point_sources`.
    x, y : `numpy.ndarray`, ``(N,)``
        Positions in pixels of the array.

    Notes
    -----
    ``sum(w P I) / sum(w P**2)``, the least-squares amplitude of the PSF.
    """
    parts = []
    x, y = np.asarray(x, float), np.asarray(y, float)
    for start in range(0, len(x), _CHUNK):
        p = slice(start, start + _CHUNK)
        ix, iy = np.round(x[p]).astype(int), np.round(y[p]).astype(int)
        model = _models(psf.evaluate(x=x[p], y=y[p]), x[p] - ix, y[p] - iy, half)[0]
        w = _cut_weight(weight, ix, iy, half)
        data = np.where(w > 0, cut_stamps(image, ix, iy, half), 0.0)
        power = (w * model**2).sum(axis=(1, 2))
        with np.errstate(divide="ignore", invalid="ignore"):
            parts.append(((w * model * data).sum(axis=(1, 2)) / power, power**-0.5, (w > 0).sum(axis=(1, 2))))
    if not parts:
        return ForcedFluxes(np.zeros(0), np.zeros(0), np.zeros(0, int))
    flux, error, number = (np.concatenate(column) for column in zip(*parts, strict=True))
    good = np.isfinite(flux)
    return ForcedFluxes(np.where(good, flux, np.nan), np.where(good, error, np.nan), number)
