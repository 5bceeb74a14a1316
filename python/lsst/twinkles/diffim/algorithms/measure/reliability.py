"""How likely a detection is to be real, from a few numbers that can be looked at."""

from __future__ import annotations

__all__ = ("FEATURES", "ReliabilityModel", "expand_terms", "measure_features")

from dataclasses import dataclass

import numpy as np

from ..fourier import shift_stamps
from ..match.prefilter import cut_stamps
from ..psf_grid import PsfGrid

FEATURES: tuple[tuple[str, str], ...] = (
    ("log_snr", "log10 of the signal-to-noise ratio of the PSF flux"),
    ("log_chi2", "log10 of the chi square a pixel of the PSF fit within one FWHM"),
    ("misfit", "light that the PSF does not fit over the light that it does"),
    ("cosine", "correlation of the pixels with the PSF within one FWHM"),
    ("center", "central pixel over that of the PSF"),
    ("neighbours", "fainter pair of opposite neighbours over the central pixel, less that of the PSF"),
    ("lowest", "lowest mean of 3 x 3 pixels within 1.5 FWHM over the highest"),
    ("opposite", "share of the light of pixels beyond 2 sigma that has the other sign"),
    ("width", "log2 of the mean square radius over that of the PSF"),
    ("elongation", "difference of the principal second moments over their sum"),
    ("surroundings", "log10 of the mean square significance of the pixels between 1 and 2 FWHM"),
    ("log_science", "log10 of light on the science image over that on the difference, within one FWHM"),
    ("log_template", "the same of the template"),
    ("log_brightness", "log10 of the significance of the brighter of science image and template"),
    ("gradient", "correlation of the pixels with the gradient of the template: poor registration"),
    ("log_variance", "log10 of the variance over that of blank sky"),
    ("bad", "share of bad pixels within 2 FWHM"),
    ("saturated", "share of saturated pixels within 5 FWHM"),
    ("streak", "share of pixels of streaks within one FWHM"),
)
"""Name and meaning of the numbers that decide."""

_LARGEST = 5.0
"""Standard deviations to which a feature counts."""


@dataclass(frozen=True)
class ReliabilityModel:
    """A logistic regression on features, their squares and their products.

    Attributes
    ----------
    version : `str`
        Name of the model.
    features : `tuple` [`str`, ...]
        Names of the features it was made for, in order.
    mean, scale : `numpy.ndarray`, ``(F,)``
        Mean and standard deviation of the features in training.
    intercept : `float`
        Logit for features at their means.
    weights : `numpy.ndarray`, ``(F (F + 3) / 2,)``
        Coefficients of the terms of `expand_terms`.
    """

    version: str
    features: tuple[str, ...]
    mean: np.ndarray
    scale: np.ndarray
    intercept: float
    weights: np.ndarray

    def __post_init__(self) -> None:
        expected = tuple(name for name, _ in FEATURES)
        if self.features != expected:
            raise ValueError(
                f"The reliability model {self.version} was made for the features {self.features}, and this "
                f"version measures {expected}; train it again."
            )
        n = len(expected)
        if len(self.mean) != n or len(self.scale) != n or len(self.weights) != n * (n + 3) // 2:
            raise ValueError(f"The reliability model {self.version} is damaged: its lengths do not agree.")

    def score(self, features: np.ndarray) -> np.ndarray:
        """Return the reliability, 0 to 1, of features ``(N, F)``; NaN for any that is not finite."""
        logit = self.intercept + expand_terms(self.standardize(features)) @ self.weights
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logit, -50.0, 50.0))))

    def standardize(self, features: np.ndarray) -> np.ndarray:
        """Return features in standard deviations from their means, 5 at most."""
        return np.clip((features - self.mean) / self.scale, -_LARGEST, _LARGEST)


def expand_terms(values: np.ndarray) -> np.ndarray:
    """Return features ``(N, F)``, their squares and their products, ``(N, F (F + 3) / 2)``."""
    first, second = np.triu_indices(values.shape[1])
    return np.concatenate([values, values[:, first] * values[:, second]], axis=1)


@dataclass(frozen=True)
class _Stamps:
    """Pixels around detections, brought to positive sign."""

    pixels: np.ndarray
    model: np.ndarray
    good: np.ndarray
    radius: np.ndarray
    science: np.ndarray
    template: np.ndarray
    sigma: np.ndarray
    psf: np.ndarray


def measure_features(
    difference: np.ndarray,
    variance: np.ndarray,
    science: np.ndarray,
    template: np.ndarray,
    planes: dict[str, np.ndarray],
    psf: PsfGrid,
    *,
    x: np.ndarray,
    y: np.ndarray,
    negative: np.ndarray,
    fwhm: float,
    sky_variance: float,
) -> np.ndarray:
    """Measure the features of detections.

    Parameters
    ----------
    difference, variance : `numpy.ndarray`, ``(Ny, Nx)``
        Difference and its variance.
    science, template : `numpy.ndarray`, ``(Ny, Nx)``
        The images that were subtracted, of any sky.
    planes : `dict` [`str`, `numpy.ndarray`]
        Boolean ``bad``, ``saturated`` and ``streak``, ``(Ny, Nx)``.
    psf : `PsfGrid`
        PSF of the difference.
    x, y : `numpy.ndarray`, ``(N,)``
        Positions in pixels of the array.
    negative : `numpy.ndarray`, ``(N,)``, bool
        Whether it has faded.
    fwhm : `float`
        FWHM of the difference's PSF in pixels.
    sky_variance : `float`
        Variance of blank sky.

    Returns
    -------
    features : `numpy.ndarray`, ``(N, F)``
        In the order of `FEATURES`. All are ratios: units and depth of the images do not matter.
    """
    if len(x) == 0:
        return np.zeros((0, len(FEATURES)))
    ix, iy = np.round(x).astype(int), np.round(y).astype(int)
    half = max(5, int(np.ceil(2.0 * fwhm)))
    s = _cut(difference, variance, science, template, planes["bad"], psf, x, y, ix, iy, negative, half)
    core = s.good & (s.radius <= fwhm)
    columns = _fit_features(s, core) | _shape_features(s, core, fwhm) | _light_features(s, core, fwhm)
    columns["log_variance"] = np.log10(np.median(s.sigma.reshape(len(x), -1), axis=1) ** 2 / sky_variance)
    columns["bad"] = 1.0 - s.good.mean(axis=(1, 2))
    columns["saturated"] = cut_stamps(planes["saturated"], ix, iy, int(5 * fwhm)).mean(axis=(1, 2))
    columns["streak"] = cut_stamps(planes["streak"], ix, iy, max(1, round(fwhm / 2))).mean(axis=(1, 2))
    return np.stack([np.nan_to_num(columns[name]) for name, _ in FEATURES], axis=1)


def _cut(
    difference: np.ndarray,
    variance: np.ndarray,
    science: np.ndarray,
    template: np.ndarray,
    bad: np.ndarray,
    psf: PsfGrid,
    x: np.ndarray,
    y: np.ndarray,
    ix: np.ndarray,
    iy: np.ndarray,
    negative: np.ndarray,
    half: int,
) -> _Stamps:
    sign = np.where(negative, -1.0, 1.0)[:, None, None]
    good = ~cut_stamps(bad, ix, iy, half)
    v = cut_stamps(variance, ix, iy, half).astype(float)
    good &= (v > 0) & np.isfinite(v)
    sigma = np.sqrt(np.where(good, v, 1.0))
    pixels = np.where(good, sign * cut_stamps(difference, ix, iy, half) / sigma, 0.0)
    stamps = psf.padded(2 * half + 1).evaluate(x=x, y=y)
    profile = shift_stamps(stamps, dx=x - ix, dy=y - iy)
    template_of_noise = np.where(good, profile / sigma, 0.0)
    power = (template_of_noise**2).sum(axis=(1, 2))
    amplitude = (pixels * template_of_noise).sum(axis=(1, 2)) / np.where(power > 0, power, 1.0)
    offset = np.arange(-half, half + 1)
    radius = np.hypot(
        offset[None, None, :] - (x - ix)[:, None, None], offset[None, :, None] - (y - iy)[:, None, None]
    )
    outer = radius > 0.75 * half
    direct = [
        _flatten(cut_stamps(image, ix, iy, half).astype(float), good, outer) for image in (science, template)
    ]
    model = amplitude[:, None, None] * template_of_noise
    return _Stamps(pixels, model, good, radius, direct[0], direct[1], sigma, profile)


def _flatten(pixels: np.ndarray, good: np.ndarray, outer: np.ndarray) -> np.ndarray:
    """Take the median of the outer pixels away; bad ones become 0."""
    rim = np.where(good & outer, pixels, np.nan).reshape(len(pixels), -1)
    none = np.isnan(rim).all(axis=1)
    rim[none] = 0.0
    return np.where(good, pixels - np.nanmedian(rim, axis=1)[:, None, None], 0.0)


def _sum(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.where(where, values, 0.0).sum(axis=(1, 2))


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Divide; 0 where the divisor is."""
    return np.divide(top, bottom, out=np.zeros_like(top, dtype=float), where=np.abs(bottom) > 1e-12)


def _fit_features(s: _Stamps, core: np.ndarray) -> dict[str, np.ndarray]:
    """Describe how well the PSF fits."""
    number = np.maximum(core.sum(axis=(1, 2)), 1)
    chi2 = _sum((s.pixels - s.model) ** 2, core)
    power = _sum(s.model**2, core)
    snr = np.sqrt((s.model**2).sum(axis=(1, 2)))
    cosine = _ratio(_sum(s.pixels * s.model, core), np.sqrt(_sum(s.pixels**2, core) * power))
    middle = s.pixels.shape[1] // 2
    return {
        "log_snr": np.log10(np.maximum(snr, 0.1)),
        "log_chi2": np.log10(np.maximum(chi2 / number, 0.01)),
        "misfit": np.sqrt(_ratio(np.maximum(chi2 - number, 0.0), power)).clip(0.0, 5.0),
        "cosine": cosine,
        "center": _ratio(s.pixels[:, middle, middle], s.model[:, middle, middle]).clip(-3.0, 6.0),
        "neighbours": (_pair_ratio(s.pixels) - _pair_ratio(s.model)).clip(-3.0, 3.0),
    }


def _pair_ratio(stamps: np.ndarray) -> np.ndarray:
    """Return the fainter pair of opposite neighbours over the central pixel."""
    c = stamps.shape[1] // 2
    pairs = [
        (stamps[:, c - j, c - i] + stamps[:, c + j, c + i]) / 2 for j, i in ((0, 1), (1, 0), (1, 1), (1, -1))
    ]
    return _ratio(np.minimum.reduce(pairs), stamps[:, c, c])


def _shape_features(s: _Stamps, core: np.ndarray, fwhm: float) -> dict[str, np.ndarray]:
    """Describe the shape of the light."""
    p = s.pixels
    blocks = sum(
        p[:, 1 + j : p.shape[1] - 1 + j, 1 + i : p.shape[2] - 1 + i] for j in (-1, 0, 1) for i in (-1, 0, 1)
    )
    inner = s.radius[:, 1:-1, 1:-1] <= 1.5 * fwhm
    lowest = np.where(inner, blocks, np.inf).min(axis=(1, 2))
    highest = np.where(inner, blocks, -np.inf).max(axis=(1, 2))
    strong = s.good & (np.abs(p) > 2.0) & (s.radius <= 1.5 * fwhm)
    ring = s.good & (s.radius > fwhm) & (s.radius <= 2.0 * fwhm)
    weight = np.exp(-0.5 * (s.radius / (0.6 * fwhm)) ** 2)
    size, elongation = _moments(np.where(s.good, p, 0.0), weight)
    psf_size, _ = _moments(s.psf / s.sigma, weight)
    return {
        "lowest": _ratio(lowest, np.maximum(highest, 1e-3)).clip(-3.0, 1.0),
        "opposite": _ratio(_sum(-np.minimum(p, 0.0), strong), _sum(np.abs(p), strong)),
        "width": np.log2(_ratio(size, psf_size).clip(0.25, 4.0)),
        "elongation": elongation.clip(0.0, 1.5),
        "surroundings": np.log10(
            _ratio(_sum(p**2, ring), np.maximum(ring.sum(axis=(1, 2)), 1).astype(float)) + 0.1
        ),
    }


def _moments(light: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean square radius and elongation of weighted light around its middle."""
    half = light.shape[1] // 2
    dx, dy = np.meshgrid(np.arange(-half, half + 1), np.arange(-half, half + 1))
    weighted = light * weight
    total = weighted.sum(axis=(1, 2))
    xx, yy, xy = (_ratio((weighted * m).sum(axis=(1, 2)), total) for m in (dx * dx, dy * dy, dx * dy))
    size = np.abs(xx + yy)
    return size, _ratio(np.hypot(xx - yy, 2 * xy), size)


def _light_features(s: _Stamps, core: np.ndarray, fwhm: float) -> dict[str, np.ndarray]:
    """Compare the light with that of the images."""
    noise = np.sqrt(_sum(s.sigma**2, core))
    changed = np.maximum(np.abs(_sum(s.pixels * s.sigma, core)), noise)
    direct = [np.maximum(_sum(image, core), noise) for image in (s.science, s.template)]
    gradient_y, gradient_x = np.gradient(s.template, axis=(1, 2))
    flux = s.pixels * s.sigma
    correlation = [
        _ratio(_sum(flux * g, core), np.sqrt(_sum(flux**2, core) * _sum(g**2, core)))
        for g in (gradient_x, gradient_y)
    ]
    return {
        "log_science": np.log10(direct[0] / changed),
        "log_template": np.log10(direct[1] / changed),
        "log_brightness": np.log10(np.maximum(*direct) / noise),
        "gradient": np.hypot(*correlation),
    }
