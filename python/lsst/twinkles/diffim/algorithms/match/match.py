"""From two images and their PSFs to the kernel that matches one to the other."""

from __future__ import annotations

__all__ = ("MatchInput", "MatchResult", "MatchSettings", "match_images", "model_misfit")

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import scipy.fft

from ..in_threads import map_in_threads
from ..noise import NoiseMap, cell_statistics
from ..psf_grid import PsfGrid
from .basis import AlardLuptonBasis
from .candidates import KernelCandidates
from .normal import (
    StampNoise,
    StampSystem,
    build_stamp_system,
    concatenate,
    sky_system,
    take_out_noise,
)
from .prefilter import (
    PrewhiteningFilters,
    StampFilters,
    cut_stamps,
    feature_covariance,
    filter_power,
    filter_stamps,
    matched_filter,
)
from .prior import prior_kernel, prior_misfit, psf_prior_system, ridge_system
from .solve import (
    KernelSolution,
    KernelSolveError,
    choose_spatial_order,
    model_misfits,
    solve_kernel,
    stellar_misfit,
)

_CHUNK = 64
# Stars for each term of the spatial polynomial that make an order worth trying.
_STARS_PER_TERM = 3
# Least signal-to-noise ratio of a star that counts as seen in both images.
_MIN_MATCHED_SNR = 5.0
# Signal-to-noise ratio of a star as good as the PSF models, where these say what noise hides.
_MODEL_SNR = 100.0
# What a kernel may leave of a star, if the PSF models are true, where stars do not tell.
_MODEL_MISFIT = 0.003
# Rounds that determine the sum of the kernel.
_SUM_ROUNDS = 2
# Cells of blank sky along the longer side of the image.
_MOST_SKY_CELLS = 24


@dataclass(frozen=True)
class MatchInput:
    """One image, prepared for matching.

    Attributes
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Sky-subtracted counts, finite (bad pixels filled).
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels without trustworthy data.
    sky : `NoiseMap`
        Variance of the blank sky.
    photon : `float`
        Variance per count of signal.
    psf : `PsfGrid`
        PSF in array coordinates.
    noise_ratio : `float`
        Scatter of neighbouring pixels over what ``sky`` claims; less than 1 where noise is correlated.
    """

    image: np.ndarray
    bad: np.ndarray
    sky: NoiseMap
    photon: float
    psf: PsfGrid
    noise_ratio: float = 1.0


@dataclass(frozen=True)
class MatchSettings:
    """Tunables of `match_images`; see the task's configuration for their meaning."""

    kernel_orders: tuple[int, ...]
    background_order: int
    stamp_half: int
    min_sources: int
    model_error: float
    clip_chi2: float
    clip_flux: float
    max_iterations: int
    max_condition: float
    prior_strengths: tuple[float, ...]
    n_folds: int
    sky_cell: int
    filter_margin: int
    ridge: float


@dataclass(frozen=True)
class MatchResult:
    """A kernel and how it was found.

    Attributes
    ----------
    solution : `KernelSolution`
        The spatially varying kernel.
    candidates : `KernelCandidates`
        Stamps that were offered, in the order of ``solution.used``.
    scores : `numpy.ndarray`, ``(n_orders, n_priors)``
        Cross-validated chi square per pixel.
    prior_strength : `float`
        Signal-to-noise given to the PSF models.
    """

    solution: KernelSolution
    candidates: KernelCandidates
    scores: np.ndarray
    prior_strength: float


def match_images(
    convolved: MatchInput,
    target: MatchInput,
    *,
    candidates: KernelCandidates,
    basis: AlardLuptonBasis,
    settings: MatchSettings,
    filters: StampFilters | None = None,
) -> MatchResult:
    """Determine the kernel that takes one image to the PSF, flux scale and sky of another.

    Parameters
    ----------
    convolved, target : `MatchInput`
        Image to be convolved and image to be matched, on the same pixels.
    candidates : `KernelCandidates`
        Stamp centres; stamps and kernel must lie inside the images.
    basis : `AlardLuptonBasis`
        Kernel basis.
    settings : `MatchSettings`
        Tunables.
    filters : `StampFilters`, optional
        What the images are thought to be convolved with before the kernel; by default
        the filter that makes the noise of their difference white.

    Returns
    -------
    result : `MatchResult`
        The kernel.

    Raises
    ------
    KernelSolveError
        Too few stamps are left, or too few in which both images show the star.
    """
    shape = target.image.shape
    flux_scale = _flux_scale(convolved, target, candidates)
    if filters is None:
        filters = PrewhiteningFilters(convolved.psf, target.psf, convolved.sky, target.sky)
    prior = _pseudo_stars(convolved, target, basis, filters, flux_scale)
    stars, covariance = _star_system(convolved, target, candidates, basis, settings, filters, flux_scale)
    sky = _sky_equations(convolved, target, settings, len(basis) + 1, flux_scale)
    fixed = sky
    if settings.ridge > 0:
        # Kernels grow with the flux scale, and so does what they may deviate.
        strength = settings.ridge / flux_scale
        fixed = concatenate(sky, ridge_system(basis, x=prior.x, y=prior.y, strength=strength))
    # Together of the signal-to-noise ratio that is wanted.
    weights = [strength**2 / (len(prior) * flux_scale**2) for strength in settings.prior_strengths]
    extras = [
        concatenate(fixed, replace(prior, gram=prior.gram * weight)) if weight > 0 else fixed
        for weight in weights
    ]
    solve = partial(
        solve_kernel,
        basis=basis,
        shape=shape,
        background_order=settings.background_order,
        n_required=settings.min_sources,
        clip_chi2=settings.clip_chi2,
        clip_flux=settings.clip_flux,
        max_iterations=settings.max_iterations,
        max_condition=settings.max_condition,
    )
    order, choice, scores = settings.kernel_orders[0], 0, np.full((1, 1), np.nan)
    first = partial(solve, kernel_order=order, extra=extras[choice])
    # What has a ridge corrects filters that the PSF models are in already: no correction is their kernel.
    model = np.eye(len(basis))[0] if settings.ridge > 0 else prior_kernel(prior, covariance / _MODEL_SNR**2)
    stars, solution = _hold_to_models(stars, covariance, model, first, settings.min_sources)
    if len(settings.kernel_orders) > 1 or len(extras) > 1:
        orders = _affordable(settings.kernel_orders, int(solution.used.sum()))
        misfits = model_misfits(prior, n_basis=len(basis), shape=shape, orders=orders)
        order, choice, scores = choose_spatial_order(
            stars,
            solution.used,
            n_basis=len(basis),
            shape=shape,
            orders=_following(orders, misfits, stellar_misfit(solution, stars.n_pixels)),
            background_order=settings.background_order,
            n_folds=settings.n_folds,
            extras=extras,
        )
        solution = solve(stars, kernel_order=order, extra=extras[choice])
    _require_common_light(solution, settings.min_sources)
    return MatchResult(
        solution=solution,
        candidates=candidates,
        scores=scores,
        prior_strength=settings.prior_strengths[choice],
    )


def _hold_to_models(
    stars: StampSystem,
    covariance: np.ndarray,
    model: np.ndarray,
    solve: Callable[[StampSystem], KernelSolution],
    n_required: int,
) -> tuple[StampSystem, KernelSolution]:
    """Free the stars' equations of noise, where nothing but the PSF models can hold the kernel.

    The sum of the kernel comes from the stars: from rounds that begin without a correction, each of which
    leaves of the bias the share that noise has in the equations.
    """
    free, solution = stars, solve(stars)
    for _ in range(_SUM_ROUNDS):
        _require_common_light(solution, n_required)
        free = take_out_noise(stars, covariance, reference=solution.kernel_sum * model)
        solution = solve(free)
    return free, solution


def model_misfit(
    convolved: MatchInput, target: MatchInput, *, candidates: KernelCandidates, basis: AlardLuptonBasis
) -> float:
    """Return what the best kernel of a basis leaves of a star, if the PSF models are true.

    Parameters
    ----------
    convolved, target, candidates, basis
        As in `match_images`.

    Returns
    -------
    misfit : `float`
        Root mean square of what is left in the metric of white noise, over that of the star's profile.
    """
    flux_scale = _flux_scale(convolved, target, candidates)
    filters = PrewhiteningFilters(convolved.psf, target.psf, convolved.sky, target.sky)
    return prior_misfit(_pseudo_stars(convolved, target, basis, filters, flux_scale))


def _require_common_light(solution: KernelSolution, n_required: int) -> None:
    """Refuse a kernel of nearly nothing, which fits everywhere if the images show different stars."""
    seen = solution.used & (solution.signal_to_noise > _MIN_MATCHED_SNR)
    n = int(np.count_nonzero(seen))
    if n < n_required:
        raise KernelSolveError(
            f"In {n} of {len(seen)} stamps both images show a star, at least {n_required} are needed.",
            n_stamps=n,
            n_required=n_required,
        )


def _affordable(orders: tuple[int, ...], n_stars: int) -> tuple[int, ...]:
    """Return the orders for which there are enough stars, the lowest at least."""
    n_terms = {order: (order + 1) * (order + 2) // 2 for order in orders}
    kept = tuple(order for order in orders if _STARS_PER_TERM * n_terms[order] <= n_stars)
    return kept or (min(orders),)


def _following(orders: tuple[int, ...], misfits: np.ndarray, scatter: float) -> tuple[int, ...]:
    """Return the orders with which the kernel follows the PSF models, where stars cannot tell.

    What is left of stars that are not in their places outweighs what a kernel that does not vary leaves of
    them, and cross-validation does not see it. Stars that fit as the models say decide themselves.
    """
    least = int(np.argmin(misfits))
    enough = np.maximum(_MODEL_MISFIT, 2.0 * misfits[least])
    kept = [o for o, m in zip(orders, misfits, strict=True) if m <= enough or scatter**2 < 2.0 * m**2]
    return tuple(kept) or (orders[least],)


def _flux_scale(convolved: MatchInput, target: MatchInput, candidates: KernelCandidates) -> float:
    """Return the median ratio of the candidates' fluxes in boxes, a first guess of the kernel sum."""
    half = 7
    x, y = candidates.x, candidates.y
    sums = [cut_stamps(i.image, x, y, half).sum(axis=(1, 2)) for i in (target, convolved)]
    good = sums[1] > 0
    ratio = float(np.median(sums[0][good] / sums[1][good])) if good.any() else 1.0
    return ratio if np.isfinite(ratio) and ratio > 0 else 1.0


def _star_system(
    convolved: MatchInput,
    target: MatchInput,
    candidates: KernelCandidates,
    basis: AlardLuptonBasis,
    settings: MatchSettings,
    filters: StampFilters,
    flux_scale: float,
) -> tuple[StampSystem, np.ndarray]:
    """Form the normal equations of the stars in the metric of white noise.

    Second is the covariance of the features for noise of unit variance.
    """
    x, y = candidates.x, candidates.y
    half, needed = settings.stamp_half, settings.stamp_half + basis.size // 2
    wide = needed + settings.filter_margin
    side = scipy.fft.next_fast_len(2 * wide + 1, real=True)
    cut, goal = (np.empty((len(x), 2 * h + 1, 2 * h + 1), dtype=np.float32) for h in (needed, half))
    power = np.empty((2, len(x)))

    def fill(part: slice) -> np.ndarray:
        transforms = filters(x=x[part], y=y[part], side=side, flux_scale=flux_scale)
        for image, transform, stamps in zip(
            (convolved.image, target.image), transforms, (cut, goal), strict=True
        ):
            raw = cut_stamps(image, x[part], y[part], wide)
            stamps[part] = _centre(filter_stamps(raw, transform, side), stamps.shape[1])
        matched = matched_filter(convolved.psf, target.psf, transforms[1], x=x[part], y=y[part], side=side)
        power[:, part] = filter_power(matched, side), filter_power(transforms[1], side)
        return (np.abs(transforms[0]) ** 2).sum(axis=0)

    spectrum = np.sum(map_in_threads(fill, len(x), chunk=_CHUNK), axis=0) / len(x)
    bad = cut_stamps(convolved.bad, x, y, half) | cut_stamps(target.bad, x, y, half)
    noise = StampNoise(
        # Never more than the pixels show: taking away noise that is not there makes kernels too sharp.
        sky=convolved.sky.evaluate(x=x, y=y) * min(1.0, convolved.noise_ratio) ** 2,
        photon=convolved.photon / flux_scale,
    )
    photon = target.photon * power[1] + flux_scale * convolved.photon * power[0]
    system = build_stamp_system(
        cut,
        goal,
        bad=bad,
        x=x,
        y=y,
        basis=basis,
        sky_variance=target.sky.evaluate(x=x, y=y) + flux_scale**2 * convolved.sky.evaluate(x=x, y=y),
        photon_variance=photon,
        model_error=settings.model_error,
        model_index=_middle_gaussian(basis),
        noise=noise,
    )
    return system, feature_covariance(basis.images(), spectrum)


def _centre(stamps: np.ndarray, size: int) -> np.ndarray:
    """Return the central ``size`` pixels of stamps along each axis."""
    cut = (stamps.shape[1] - size) // 2
    return stamps[:, cut : cut + size, cut : cut + size]


def _middle_gaussian(basis: AlardLuptonBasis) -> int:
    """Index of the raw function that is the plain Gaussian of the middle width."""
    middle = len(basis.sigmas) // 2
    before = sum((d + 1) * (d + 2) // 2 for d in basis.degrees)
    first = len(basis) - before
    return first + sum((d + 1) * (d + 2) // 2 for d in basis.degrees[:middle])


def _sky_equations(
    convolved: MatchInput, target: MatchInput, settings: MatchSettings, n_features: int, flux_scale: float
) -> StampSystem:
    """Equations that tie the differential background to the blank sky between the sources."""
    bad = convolved.bad | target.bad
    # A polynomial of low order needs no more cells than this, and each is a star's worth of work.
    size = max(settings.sky_cell, max(bad.shape) // _MOST_SKY_CELLS)
    measure = partial(cell_statistics, size=size, min_fraction=0.25)
    level_t, sigma_t, number, x, y = measure(target.image, bad)
    level_c, sigma_c, _, _, _ = measure(convolved.image, bad)
    good = np.isfinite(level_t) & np.isfinite(level_c) & (number > 0)
    variance = (sigma_t**2 + flux_scale**2 * sigma_c**2)[good]
    # Medians have pi/2 the variance of means; sources below the limit lift them by a few hundredths of sigma.
    floor = (0.02 * np.sqrt(variance)) ** 2
    grid_x, grid_y = np.meshgrid(x, y)
    return sky_system(
        level_c[good],
        level_t[good],
        x=grid_x[good],
        y=grid_y[good],
        variance=np.pi / 2 * variance / number[good] + floor + 1e-30,
        n_features=n_features,
    )


def _pseudo_stars(
    convolved: MatchInput,
    target: MatchInput,
    basis: AlardLuptonBasis,
    filters: StampFilters,
    flux_scale: float,
) -> StampSystem:
    """Make pseudo-stars of the PSF models on a 5 x 5 grid."""
    ny, nx = target.image.shape
    x, y = np.linspace(0, nx - 1, 5), np.linspace(0, ny - 1, 5)
    grid_x, grid_y = (a.ravel() for a in np.meshgrid(x, y))
    side = scipy.fft.next_fast_len(max(convolved.psf.size, target.psf.size) + basis.size, real=True)
    return psf_prior_system(
        convolved.psf,
        target.psf,
        x=grid_x,
        y=grid_y,
        basis=basis,
        filters=filters(x=grid_x, y=grid_y, side=side, flux_scale=flux_scale),
        side=side,
    )
