"""The spatially varying matching kernel: global solution, clipping, choice of spatial order."""

from __future__ import annotations

__all__ = (
    "KernelSolution",
    "KernelSolveError",
    "choose_spatial_order",
    "model_misfits",
    "solve_kernel",
    "stellar_misfit",
)

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from ..spatial import chebyshev_coefficients, chebyshev_terms
from .basis import AlardLuptonBasis
from .normal import StampSystem
from .prior import solve_shape

_FALLBACK_CONDITION = 1e6

# Median of chi square with one degree of freedom.
_MEDIAN_CHI2_1 = 0.4549
# Stars whose noise is less than this fraction of their flux tell the mismatch that is proportional to it.
_TYPICAL_FRACTION = 0.005
_FEWEST_BRIGHT = 8


class KernelSolveError(RuntimeError):
    """The stamps do not determine a kernel.

    Attributes
    ----------
    n_stamps, n_required : `int`
        Stamps left and stamps needed.
    """

    def __init__(self, message: str, *, n_stamps: int, n_required: int) -> None:
        super().__init__(message)
        self.n_stamps, self.n_required = n_stamps, n_required


@dataclass(frozen=True)
class KernelSolution:
    """A spatially varying kernel and differential background.

    Attributes
    ----------
    basis : `AlardLuptonBasis`
        Kernel basis.
    shape : `tuple` [`int`, `int`]
        Shape ``(Ny, Nx)`` of the image over which the polynomials are defined.
    kernel_order, background_order : `int`
        Total degrees of the spatial polynomials.
    kernel_terms : `numpy.ndarray`, ``(n_basis, n_terms)``
        Chebyshev coefficients of each basis function; the first varies not at all.
    background_terms : `numpy.ndarray`, ``(n_background_terms,)``
        Chebyshev coefficients of the differential background.
    used : `numpy.ndarray`, ``(N,)``, bool
        Stamps that survived the clipping.
    chi2 : `numpy.ndarray`, ``(N,)``
        Reduced chi square of each stamp.
    flux_residual : `numpy.ndarray`, ``(N,)``
        Residual flux of each stamp over its error.
    signal_to_noise : `numpy.ndarray`, ``(N,)``
        Of the matched profile in each stamp; 1 at least.
    condition_number : `float`
        Of the scaled normal matrix.
    n_iterations : `int`
        Clipping iterations done.
    """

    basis: AlardLuptonBasis
    shape: tuple[int, int]
    kernel_order: int
    background_order: int
    kernel_terms: np.ndarray
    background_terms: np.ndarray
    used: np.ndarray
    chi2: np.ndarray
    flux_residual: np.ndarray
    signal_to_noise: np.ndarray
    condition_number: float
    n_iterations: int

    @property
    def kernel_sum(self) -> float:
        """Sum of the kernel, the same everywhere (flux scale of target over convolved image)."""
        return float(self.kernel_terms[0, 0])

    def spatial_images(self) -> np.ndarray:
        """Return the kernel image of each spatial term, ``(n_terms, size, size)``."""
        return np.tensordot(self.kernel_terms.T, self.basis.images(), axes=1)

    def kernel_at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the same as `evaluate`, in the form that convolutions ask for."""
        return self.evaluate(x=x, y=y)

    def evaluate(self, *, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return kernel images at positions, ``(N, size, size)``, float64."""
        terms = chebyshev_terms(x=x, y=y, shape=self.shape, order=self.kernel_order)
        return np.tensordot(terms, self.spatial_images(), axes=1)

    def coefficient_matrices(self) -> np.ndarray:
        """Return Chebyshev matrices of each basis function, ``(n_basis, order+1, order+1)``."""
        return np.array([chebyshev_coefficients(row, self.kernel_order) for row in self.kernel_terms])


@dataclass(frozen=True)
class _Layout:
    """Which feature and which polynomial each unknown multiplies."""

    feature: np.ndarray
    term: np.ndarray
    kernel_order: int
    background_order: int

    @classmethod
    def make(cls, n_basis: int, kernel_order: int, background_order: int) -> _Layout:
        n_kernel = (kernel_order + 1) * (kernel_order + 2) // 2
        n_background = (background_order + 1) * (background_order + 2) // 2
        feature = [0] + [i for i in range(1, n_basis) for _ in range(n_kernel)] + [n_basis] * n_background
        term = [0] + [t for _ in range(1, n_basis) for t in range(n_kernel)] + list(range(n_background))
        return cls(np.array(feature), np.array(term), kernel_order, background_order)

    def values(self, system: StampSystem, shape: tuple[int, int]) -> np.ndarray:
        """Polynomial value of each unknown at each stamp, ``(N, U)``."""
        order = max(self.kernel_order, self.background_order)
        terms = chebyshev_terms(x=system.x, y=system.y, shape=shape, order=order)
        return terms[:, self.term]

    def split(self, solution: np.ndarray, n_basis: int) -> tuple[np.ndarray, np.ndarray]:
        n_kernel = (self.kernel_order + 1) * (self.kernel_order + 2) // 2
        kernel = np.zeros((n_basis, n_kernel))
        in_kernel = self.feature < n_basis
        kernel[self.feature[in_kernel], self.term[in_kernel]] = solution[in_kernel]
        return kernel, solution[~in_kernel]


def _normal_matrix(system: StampSystem, layout: _Layout, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum the stamps' normal equations into those of the spatial coefficients."""
    feature = layout.feature
    n_term = int(layout.term.max()) + 1
    n_feature = system.gram.shape[1]
    # sum_s G_s[i, j] P_a(s) P_b(s) as one matrix product over stamps.
    terms = np.zeros((len(system), n_term))
    terms[:, layout.term] = values
    products = (terms[:, :, None] * terms[:, None, :]).reshape(len(system), -1)
    block = (products.T @ system.gram.reshape(len(system), -1)).reshape(n_term, n_term, n_feature, n_feature)
    matrix = block[layout.term[:, None], layout.term[None, :], feature[:, None], feature[None, :]]
    moment = (terms.T @ system.moment)[layout.term, feature]
    return matrix, moment


def _extra_sums(
    extra: StampSystem | None, layout: _Layout, shape: tuple[int, int]
) -> tuple[np.ndarray | float, np.ndarray | float]:
    if extra is None or len(extra) == 0:
        return 0.0, 0.0
    return _normal_matrix(extra, layout, layout.values(extra, shape))


def _solve(matrix: np.ndarray, moment: np.ndarray, max_condition: float) -> tuple[np.ndarray, float]:
    """Solve scaled normal equations, cutting eigenvalues below ``largest / max_condition``."""
    scale = np.sqrt(np.clip(np.diag(matrix), 0.0, None))
    scale = np.where(scale > 0, scale, 1.0)
    values, vectors = scipy.linalg.eigh(matrix / scale[:, None] / scale[None, :])
    largest = values[-1]
    condition = float(largest / values[0]) if values[0] > 0 else np.inf
    keep = values > largest / max_condition
    projected = vectors[:, keep].T @ (moment / scale)
    return (vectors[:, keep] @ (projected / values[keep])) / scale, condition


def _stamp_residuals(
    system: StampSystem, layout: _Layout, values: np.ndarray, solution: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return chi square, flux residual over error and signal-to-noise of every stamp."""
    coefficients = np.zeros((len(system), system.gram.shape[1]))
    weighted = values * solution[None, :]
    np.add.at(coefficients.T, layout.feature, weighted.T)
    fitted = np.einsum("nij,nj->ni", system.gram, coefficients)
    chi2 = system.power - 2 * (coefficients * system.moment).sum(1) + (coefficients * fitted).sum(1)
    # Profile of the matched star: the kernel part of the model.
    kernel = coefficients.copy()
    kernel[:, -1] = 0.0
    norm = np.einsum("ni,nij,nj->n", kernel, system.gram, kernel)
    # Below 1 there is no star; without the noise's share the sum may even be negative.
    root = np.sqrt(np.clip(norm, 1.0, None))
    residual = ((system.moment - fitted) * kernel).sum(1) / root
    return chi2, residual, root


def solve_kernel(
    system: StampSystem,
    *,
    basis: AlardLuptonBasis,
    shape: tuple[int, int],
    kernel_order: int,
    background_order: int,
    n_required: int,
    clip_chi2: float,
    clip_flux: float,
    max_iterations: int,
    max_condition: float,
    extra: StampSystem | None = None,
    used: np.ndarray | None = None,
) -> KernelSolution:
    """Solve for the kernel, leaving out stamps that do not fit.

    Parameters
    ----------
    system : `StampSystem`
        Normal equations of the stamps.
    basis : `AlardLuptonBasis`
        Kernel basis.
    shape : `tuple` [`int`, `int`]
        Shape of the images.
    kernel_order, background_order : `int`
        Degrees of the spatial polynomials of kernel and differential background.
    n_required : `int`
        Fewest stamps that may remain.
    clip_chi2, clip_flux : `float`
        Limits, in robust standard deviations, on a stamp's chi square and
        flux residual after allowance for the error that grows with brightness.
    max_iterations : `int`
        Largest number of clipping iterations.
    max_condition : `float`
        Eigenvalues smaller than the largest over this are cut.
    extra : `StampSystem`, optional
        Further equations that are never clipped: blank sky, what the PSF models say.
    used : `numpy.ndarray`, ``(N,)``, bool, optional
        Stamps to begin with; default all.

    Returns
    -------
    solution : `KernelSolution`
        The kernel.

    Raises
    ------
    KernelSolveError
        Fewer than ``n_required`` stamps are there or survive, or the kernel they
        give has no positive sum.

    Notes
    -----
    Global solution of Alard (2000), doi:10.1051/aas:2000214: spatial
    coefficients of all stamps at once.  The stamps' sums are formed once;
    clipping, order selection and cross-validation need no pixels.
    """
    used = np.ones(len(system), dtype=bool) if used is None else used.copy()
    layout = _Layout.make(len(basis), kernel_order, background_order)
    values = layout.values(system, shape)
    fixed = _extra_sums(extra, layout, shape)
    for iteration in range(1, max_iterations + 1):
        _require(used, n_required)
        matrix, moment = _normal_matrix(system.take(np.flatnonzero(used)), layout, values[used])
        matrix, moment = matrix + fixed[0], moment + fixed[1]
        solution, condition = _solve(matrix, moment, max_condition)
        chi2, residual, signal = _stamp_residuals(system, layout, values, solution)
        good = _clip(chi2, residual, signal, system.n_pixels, used, clip_chi2, clip_flux)
        if np.array_equal(good, used):
            break
        if iteration == max_iterations:
            break
        used = good
    kernel_terms, background_terms = layout.split(solution, len(basis))
    if not kernel_terms[0, 0] > 0:
        raise KernelSolveError(
            f"The kernel has the sum {kernel_terms[0, 0]:.3g}: the stars of one image are not in the other.",
            n_stamps=0,
            n_required=n_required,
        )
    return KernelSolution(
        basis=basis,
        shape=shape,
        kernel_order=kernel_order,
        background_order=background_order,
        kernel_terms=kernel_terms,
        background_terms=background_terms,
        used=used,
        chi2=chi2 / np.maximum(system.n_pixels, 1),
        flux_residual=residual,
        signal_to_noise=signal,
        condition_number=condition,
        n_iterations=iteration,
    )


def _require(used: np.ndarray, n_required: int) -> None:
    n = int(used.sum())
    if n < n_required:
        raise KernelSolveError(
            f"{n} kernel stamps of {len(used)} are usable, at least {n_required} are needed.",
            n_stamps=n,
            n_required=n_required,
        )


def _clip(
    chi2: np.ndarray,
    residual: np.ndarray,
    signal: np.ndarray,
    n_pixels: np.ndarray,
    used: np.ndarray,
    clip_chi2: float,
    clip_flux: float,
) -> np.ndarray:
    """Return which stamps fit, allowing for errors proportional to brightness.

    A mismatch that is a fixed fraction of the star makes chi square grow as the
    square of its signal-to-noise; the fraction is measured from the stamps
    themselves, so that bright stars are neither all lost nor free to be variable.
    """
    n = np.maximum(n_pixels, 1)
    reduced = chi2 / n
    level, fraction2 = _mismatch(reduced, signal, n, used)
    expected = level + fraction2 * signal**2 / n
    width = np.sqrt(2.0 / n) * level + fraction2 * signal**2 / n
    scatter = max(1.0, _robust_std(((reduced - expected) / width)[used]))
    good = reduced - expected < clip_chi2 * scatter * width
    scale, fraction2 = _flux_errors(residual[used], signal[used], level)
    # A bright variable star pulls the sum of the kernel; the others then have residuals of the other sign.
    residual = residual - scale * signal
    flux_width = np.sqrt(level + fraction2 * signal**2)
    scatter = max(1.0, _robust_std((residual / flux_width)[used]))
    return good & (np.abs(residual) < clip_flux * scatter * flux_width)


def _mismatch(
    reduced: np.ndarray, signal: np.ndarray, n_pixels: np.ndarray, used: np.ndarray
) -> tuple[float, float]:
    """Return the reduced chi square of noise, and the sum of squares of what is left of bright stars.

    The latter over the sum of squares of the star, by the median of the brighter half.
    """
    # Sums in single precision cannot tell what is left of a star below a millionth of its power.
    level = max(np.median(reduced[used]), 1e-6 * np.median((signal**2 / n_pixels)[used]))
    excess = np.clip(reduced - level, 0.0, None) * n_pixels / signal**2
    brighter = used & (signal > np.median(signal[used]))
    return float(level), float(np.median(excess[brighter if brighter.any() else used]))


def _flux_errors(residual: np.ndarray, signal: np.ndarray, level: float) -> tuple[float, float]:
    """Return what the fluxes of most stars are off by, and the variance around it beyond the noise.

    Both as fractions of the fluxes, by medians of those stars whose noise is less than what such a fraction
    may be, or of the brighter quarter: faint ones would make it as large as their own noise, so that no
    bright star would ever be variable.
    """
    count = max(_FEWEST_BRIGHT, len(signal) // 4, np.count_nonzero(_TYPICAL_FRACTION * signal > level**0.5))
    bright = np.argsort(-signal)[:count]
    offset = residual[bright] / signal[bright]
    scale = float(np.median(offset))
    excess = (offset - scale) ** 2 / _MEDIAN_CHI2_1 - level / signal[bright] ** 2
    return scale, max(0.0, float(np.median(excess)))


def _robust_std(values: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values)))) if len(values) else 0.0


def stellar_misfit(solution: KernelSolution, n_pixels: np.ndarray) -> float:
    """Return what a solution leaves of bright stars beyond noise, as `prior_misfit` does of pseudo-stars."""
    n = np.maximum(n_pixels, 1)
    return _mismatch(solution.chi2, solution.signal_to_noise, n, solution.used)[1] ** 0.5


def model_misfits(
    prior: StampSystem, *, n_basis: int, shape: tuple[int, int], orders: Sequence[int]
) -> np.ndarray:
    """Return what the best kernel of each spatial order leaves of the pseudo-stars of the PSF models.

    Parameters
    ----------
    prior : `StampSystem`
        Pseudo-stars.
    n_basis : `int`
        Number of basis functions.
    shape : `tuple` [`int`, `int`]
        Shape of the images.
    orders : sequence of `int`
        Orders of the polynomials.

    Returns
    -------
    misfits : `numpy.ndarray`, ``(n_orders,)``
        Root mean square over positions, over the pseudo-star's profile.
    """
    misfits = []
    for order in orders:
        layout = _Layout.make(n_basis, order, 0)
        matrix, _ = _normal_matrix(prior, layout, layout.values(prior, shape))
        misfits.append(np.sqrt(solve_shape(matrix[:-1, :-1])[1] / len(prior)))  # the last is the background
    return np.array(misfits)


def choose_spatial_order(
    system: StampSystem,
    used: np.ndarray,
    *,
    n_basis: int,
    shape: tuple[int, int],
    orders: tuple[int, ...],
    background_order: int,
    n_folds: int,
    extras: Sequence[StampSystem | None],
) -> tuple[int, int, np.ndarray]:
    """Choose spatial order and strength of the prior by cross-validation over stamps.

    Parameters
    ----------
    system, used
        Stamps and which of them count.
    n_basis : `int`
        Number of basis functions.
    shape : `tuple` [`int`, `int`]
        Shape of the images.
    orders : `tuple` [`int`, ...]
        Orders to try, increasing.
    background_order : `int`
        Order of the differential background.
    n_folds : `int`
        Parts into which the stamps are divided; each is predicted from the rest.
    extras : `list` [`StampSystem` or `None`]
        Alternative further equations (see `solve_kernel`), the preferred first.

    Returns
    -------
    order : `int`
        Order with the least predicted chi square; another choice displaces an earlier
        one only when it gains more than the standard error of the gain over the stamps.
    choice : `int`
        Index into ``extras``.
    scores : `numpy.ndarray`, ``(n_orders, n_extras)``
        Mean chi square per pixel of unseen stamps, NaN where not determined.
    """
    index = np.flatnonzero(used)
    n_folds = min(n_folds, len(index))
    folds = [index[k::n_folds] for k in range(n_folds)]
    scores = np.full((len(orders), len(extras)), np.nan)
    best: tuple[int, int] | None = None
    best_chi2 = np.empty(0)
    for i, order in enumerate(orders):
        layout = _Layout.make(n_basis, order, background_order)
        values = layout.values(system, shape)
        sums = [_normal_matrix(system.take(fold), layout, values[fold]) for fold in folds]
        matrix = np.sum([m for m, _ in sums], axis=0)
        moment = np.sum([b for _, b in sums], axis=0)
        for j, extra in enumerate(extras):
            fixed = _extra_sums(extra, layout, shape)
            chi2 = np.full(len(system), np.nan)
            for fold, (m, b) in zip(folds, sums, strict=True):
                solution = _solve_positive(matrix - m + fixed[0], moment - b + fixed[1])
                if solution is not None:
                    chi2[fold] = _stamp_residuals(system.take(fold), layout, values[fold], solution)[0]
            per_stamp = (chi2 / np.maximum(system.n_pixels, 1))[index]
            scores[i, j] = per_stamp.mean()
            gain = best_chi2 - per_stamp if best is not None else per_stamp
            if np.isfinite(scores[i, j]) and (best is None or gain.mean() > gain.std() / np.sqrt(len(gain))):
                best, best_chi2 = (i, j), per_stamp
    return (orders[best[0]], best[1], scores) if best is not None else (orders[0], 0, scores)


def _solve_positive(matrix: np.ndarray, moment: np.ndarray) -> np.ndarray | None:
    """Solve scaled normal equations, by Cholesky where they are positive; `None` where there are none."""
    scale = np.sqrt(np.clip(np.diag(matrix), 0.0, None))
    if not np.all(scale > 0):
        return None
    scaled = matrix / scale[:, None] / scale[None, :]
    scaled[np.diag_indices_from(scaled)] += 1e-10
    try:
        factor = scipy.linalg.cho_factor(scaled, check_finite=False)
    except scipy.linalg.LinAlgError:
        return _solve(matrix, moment, _FALLBACK_CONDITION)[0]
    return scipy.linalg.cho_solve(factor, moment / scale, check_finite=False) / scale
