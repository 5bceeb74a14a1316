"""Normal equations of single kernel stamps."""

from __future__ import annotations

__all__ = (
    "StampNoise",
    "StampSystem",
    "build_stamp_system",
    "concatenate",
    "sky_system",
    "take_out_noise",
)

from dataclasses import dataclass, replace

import numpy as np

from ..in_threads import map_in_threads
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
    noise : `numpy.ndarray`, ``(N,)``
        Weighted sums of the variances of the image to be convolved.
    """

    x: np.ndarray
    y: np.ndarray
    gram: np.ndarray
    moment: np.ndarray
    power: np.ndarray
    n_pixels: np.ndarray
    noise: np.ndarray

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
    sky : `numpy.ndarray`, ``(N,)``
        Variance of blank sky at each stamp.
    photon : `float`
        Variance per count of the matched profile.
    """

    sky: np.ndarray
    photon: float

    def total(self, weight: np.ndarray, model: np.ndarray, part: slice) -> np.ndarray:
        """Return the weighted sums of the variances of some stamps, ``(M,)``."""
        return weight.sum(axis=(1, 2)) * self.sky[part] + self.photon * (weight * model).sum(axis=(1, 2))


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
    noise: StampNoise,
    chunk: int = 64,
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
    noise : `StampNoise`
        Noise of the stamps to be convolved.
    chunk : `int`
        Stamps worked on at a time (bounds the memory).

    Returns
    -------
    system : `StampSystem`
        One entry per stamp.
    """
    n, n_basis, side = len(target), len(basis), target.shape[1]
    features = n_basis + 1
    gram, moment = np.zeros((n, features, features)), np.zeros((n, features))
    power, n_pixels, total = np.zeros((3, n))
    mix = np.eye(features)
    mix[:n_basis, :n_basis] = basis.transform

    def fill(part: slice) -> None:
        m = part.stop - part.start
        stamps = np.ones((m, features, side, side), dtype=np.float32)
        convolve_stamps(
            0,
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
        # Sums in double precision: what bright stars say of the finer functions is in the last digits.
        root = np.sqrt(weight).reshape(m, -1)
        weighted = stamps.reshape(m, features, -1) * root[:, None, :]
        scaled = data.reshape(m, -1) * root
        gram[part] = mix @ (weighted @ weighted.transpose(0, 2, 1)) @ mix.T
        moment[part] = (weighted @ scaled[:, :, None])[:, :, 0] @ mix.T
        power[part] = np.einsum("np,np->n", scaled, scaled)
        n_pixels[part] = (weight > 0).sum(axis=(1, 2))
        total[part] = noise.total(weight, model, part)

    map_in_threads(fill, n, chunk=chunk)
    return StampSystem(
        x=x.astype(float),
        y=y.astype(float),
        gram=gram,
        moment=moment,
        power=power,
        n_pixels=n_pixels,
        noise=total,
    )


def take_out_noise(system: StampSystem, covariance: np.ndarray, *, reference: np.ndarray) -> StampSystem:
    """Let the noise of the image that is convolved hold the kernel to a reference, not to zero.

    Parameters
    ----------
    system : `StampSystem`
        Equations of stars.
    covariance : `numpy.ndarray`, ``(B, B)``
        Covariance of the features at a pixel for noise of unit variance.
    reference : `numpy.ndarray`, ``(B,)``
        About the coefficients of the kernel.

    Returns
    -------
    system : `StampSystem`
        Equations without the bias of the noise. Chi squares stay those of the pixels.

    Notes
    -----
    The regressors are noisy themselves. Left alone, the fit would suppress whatever makes their noise
    appear in the residuals (attenuation bias of errors in variables): kernels come out too smooth and their
    sums too small. Subtracting the expected sums of products of the noise, ``a^T N a``, makes the equations
    unbiased (Fuller 1987, Measurement Error Models, doi:10.1002/9780470316665, section 2.2), but indefinite
    where stars say less than noise: kernels then blow up noise, and seem to fit the better for it. Turned
    into ``(a - r)^T N (a - r)``, ``r`` being the reference, it stays a ridge as firm as before, and without
    bias as far as ``r`` is right.
    """
    n_basis = len(covariance)
    moment = system.moment.copy()
    moment[:, :n_basis] += system.noise[:, None] * (covariance @ reference)
    lost = 2.0 * system.noise * (reference @ covariance @ reference)
    return replace(system, moment=moment, power=system.power + lost)


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
    return StampSystem(
        x=np.asarray(x, float),
        y=np.asarray(y, float),
        gram=gram,
        moment=moment,
        power=weight * target**2,
        n_pixels=np.ones(n),
        noise=np.zeros(n),
    )
