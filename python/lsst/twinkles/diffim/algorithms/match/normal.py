"""Normal equations of single kernel stamps."""

from __future__ import annotations

__all__ = ("StampNoise", "StampSystem", "build_stamp_system", "concatenate", "sky_system")

from dataclasses import dataclass

import numpy as np

from ..in_threads import run_in_threads
from .basis import AlardLuptonBasis
from .stamps_nb import convolve_stamps


@dataclass(frozen=True)
class StampSystem:
    """Weighted least-squares sums of each stamp.

    The model of a stamp is ``sum_i a_i (B_i * convolved) + background``; the
    last feature is the constant one of the background.

    Attributes
    ----------
    x, y : `numpy.ndarray`, ``(N,)``
        Stamp centres in pixels.
    gram : `numpy.ndarray`, ``(N, F, F)``
        Sums of weighted products of features.
    moment : `numpy.ndarray`, ``(N, F)``
        Sums of weighted products of features and target.
    power : `numpy.ndarray`, ``(N,)``
        Weighted sums of squares of the target.
    n_pixels : `numpy.ndarray`, ``(N,)``
        Pixels used.
    noise : `numpy.ndarray`, ``(N, B, B)``
        Share of the noise that was taken out of ``gram``; ``(N, 0, 0)`` if none was.
    """

    x: np.ndarray
    y: np.ndarray
    gram: np.ndarray
    moment: np.ndarray
    power: np.ndarray
    n_pixels: np.ndarray
    noise: np.ndarray

    @classmethod
    def noiseless(cls, **sums: np.ndarray) -> StampSystem:
        """Return a system of sums that noise of the features has no part in."""
        return cls(**sums, noise=np.zeros((len(sums["x"]), 0, 0)))

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: np.ndarray) -> StampSystem:
        """Return the system of a subset of stamps."""
        return StampSystem(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class StampNoise:
    """Noise of the image to be convolved.

    Attributes
    ----------
    covariance : `numpy.ndarray`, ``(B, B)``
        Sums of products of the (filtered) basis functions: covariance of the features at
        a pixel for unit variance.
    sky : `numpy.ndarray`, ``(N,)``
        Variance of blank sky at each stamp.
    photon : `float`
        Variance per count of the matched profile.
    kernel_sum : `float`
        About the coefficient of the first function, to which the others are small.
    """

    covariance: np.ndarray
    sky: np.ndarray
    photon: float
    kernel_sum: float

    def expected(self, weight: np.ndarray, model: np.ndarray, part: slice) -> np.ndarray:
        """Return the expected share of the sums of some stamps, ``(M, B, B)``."""
        total = weight.sum(axis=(1, 2)) * self.sky[part] + self.photon * (weight * model).sum(axis=(1, 2))
        return total[:, None, None] * self.covariance


def concatenate(*systems: StampSystem) -> StampSystem:
    """Join systems with the same features."""
    return StampSystem(
        *(np.concatenate([getattr(s, name) for s in systems]) for name in StampSystem.__dataclass_fields__)
    )


def build_stamp_system(
    convolved: np.ndarray,
    target: np.ndarray,
    *,
    bad: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    basis: AlardLuptonBasis,
    sky_variance: np.ndarray,
    photon_variance: np.ndarray,
    model_error: float,
    model_index: int,
    noise: StampNoise | None = None,
    chunk: int = 128,
) -> StampSystem:
    """Form the normal equations of every stamp.

    Parameters
    ----------
    convolved : `numpy.ndarray`, ``(N, P, P)``, float32
        Sky-subtracted stamps of the image to be convolved, finite; wider than the
        target's by at least the kernel's half side at each edge.
    target : `numpy.ndarray`, ``(N, Q, Q)``, float32
        Stamps of the image to be matched.
    bad : `numpy.ndarray`, ``(N, Q, Q)``, bool
        Pixels of either that get no weight.
    x, y : `numpy.ndarray`, ``(N,)``
        Stamp centres.
    basis : `AlardLuptonBasis`
        Kernel basis.
    sky_variance : `numpy.ndarray`, ``(N,)``
        Variance of the blank sky of the difference at each stamp.
    photon_variance : `numpy.ndarray`, ``(N,)``
        Variance per count of signal in the target, both images together.
    model_error : `float`
        Fractional error of the matched profile, added in quadrature: it keeps
        the few brightest stars from deciding alone.
    model_index : `int`
        Raw basis function whose convolved stamp stands for the profile of the star in
        the weights.  Weights from a model, not from observed counts, are
        uncorrelated with the noise and do not bias the fit.
    noise : `StampNoise`, optional
        Noise of the stamps to be convolved, the expected share of which is taken out of the sums.
    chunk : `int`
        Stamps worked on at a time (bounds the memory).

    Returns
    -------
    system : `StampSystem`
        One entry per stamp.

    Notes
    -----
    The regressors are noisy themselves. Left alone, the fit would suppress whatever makes their noise
    appear in the residuals (attenuation bias of errors in variables): kernels come out too smooth and their
    sums too small. Subtracting the expected sums of products of the noise makes the equations unbiased
    (Fuller 1987, Measurement Error Models, doi:10.1002/9780470316665, section 2.2).
    """
    n, n_basis, side = len(target), len(basis), target.shape[1]
    features = n_basis + 1
    gram, moment = np.zeros((n, features, features)), np.zeros((n, features))
    power, n_pixels = np.zeros(n), np.zeros(n)
    taken = np.zeros((n, n_basis, n_basis) if noise is not None else (n, 0, 0))
    mix = np.eye(features)
    mix[:n_basis, :n_basis] = basis.transform
    for start in range(0, n, chunk):
        part = slice(start, min(start + chunk, n))
        m = part.stop - start
        stamps = np.ones((m, features, side, side), dtype=np.float32)
        run_in_threads(
            convolve_stamps,
            m,
            np.ascontiguousarray(convolved[part], dtype=np.float32),
            side // 2,
            basis.factors,
            basis.row,
            basis.column,
            stamps[:, :n_basis],
        )
        data = target[part].astype(float)
        model = _profiles(stamps[:, model_index], data)
        weight = _weights(model, sky_variance[part], photon_variance[part], model_error)
        weight[bad[part]] = 0.0
        root = np.sqrt(weight).reshape(m, -1).astype(np.float32)
        weighted = stamps.reshape(m, features, -1) * root[:, None, :]
        scaled = data.reshape(m, -1).astype(np.float32) * root
        gram[part] = mix @ (weighted @ weighted.transpose(0, 2, 1)).astype(float) @ mix.T
        if noise is not None:
            taken[part] = noise.expected(weight, model, part)
            gram[part, :n_basis, :n_basis] -= taken[part]
            # What chi squares lose by that, so that they stay those of the pixels.
            power[part] = noise.kernel_sum**2 * taken[part, 0, 0]
        moment[part] = (weighted @ scaled[:, :, None])[:, :, 0].astype(float) @ mix.T
        power[part] += np.einsum("np,np->n", scaled, scaled, dtype=float)
        n_pixels[part] = (weight > 0).sum(axis=(1, 2))
    return StampSystem(
        x=x.astype(float),
        y=y.astype(float),
        gram=gram,
        moment=moment,
        power=power,
        n_pixels=n_pixels,
        noise=taken,
    )


def _profiles(profile: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Return smooth profiles scaled to each stamp's flux, nowhere negative."""
    norm = np.einsum("nij,nij->n", profile, profile, dtype=float)
    scale = np.einsum("nij,nij->n", profile, data) / np.where(norm > 0, norm, 1.0)
    return np.clip(profile * np.clip(scale, 0.0, None)[:, None, None], 0.0, None).astype(float)


def _weights(model: np.ndarray, sky: np.ndarray, photon: np.ndarray, model_error: float) -> np.ndarray:
    """Return inverse variances."""
    return 1.0 / (sky[:, None, None] + photon[:, None, None] * model + (model_error * model) ** 2)


def sky_system(
    convolved: np.ndarray,
    target: np.ndarray,
    *,
    x: np.ndarray,
    y: np.ndarray,
    variance: np.ndarray,
    n_features: int,
) -> StampSystem:
    """Make equations that tie the differential background to blank sky.

    Parameters
    ----------
    convolved, target : `numpy.ndarray`, ``(N,)``
        Sky levels of cells in the two images.
    x, y : `numpy.ndarray`, ``(N,)``
        Cell centres.
    variance : `numpy.ndarray`, ``(N,)``
        Variance of their matched difference.
    n_features : `int`
        Number of features (basis functions and background).

    Returns
    -------
    system : `StampSystem`
        ``target = kernel_sum * convolved + background``, one entry per cell.
    """
    n = len(x)
    gram, moment = np.zeros((n, n_features, n_features)), np.zeros((n, n_features))
    weight = 1.0 / variance
    gram[:, 0, 0] = weight * convolved**2
    gram[:, 0, -1] = gram[:, -1, 0] = weight * convolved
    gram[:, -1, -1] = weight
    moment[:, 0], moment[:, -1] = weight * convolved * target, weight * target
    return StampSystem.noiseless(
        x=np.asarray(x, float),
        y=np.asarray(y, float),
        gram=gram,
        moment=moment,
        power=weight * target**2,
        n_pixels=np.ones(n),
    )
