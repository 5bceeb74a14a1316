"""Subtraction with an Alard-Lupton kernel on one of the images."""

from __future__ import annotations

__all__ = ("AlardLuptonEngine",)

from collections.abc import Callable
from functools import partial

import numpy as np

from ..adapters.kernels import kernel_from_solution
from ..algorithms.decorrelate.whiten import propagate_variance
from ..algorithms.fourier import transform_stamps
from ..algorithms.match.basis import AlardLuptonBasis
from ..algorithms.match.candidates import KernelCandidates
from ..algorithms.match.match import MatchResult, match_images, model_misfit
from ..algorithms.spatial import chebyshev_image
from ..algorithms.subtract.matched import convolve_kernel, refine_background
from ..algorithms.threads import get_num_threads
from .engines import Exposures, Roles, Subtraction, convolved_noise, measure_excess
from .kernel import AlardLuptonKernelConfig, make_basis, make_settings, make_wide_bases

_TILE = 512


class AlardLuptonEngine:
    """Match one image to the other and subtract; the noise is left correlated.

    Parameters
    ----------
    config : `AlardLuptonKernelConfig`
        Configuration.
    """

    name = "AL"

    def __init__(self, config: AlardLuptonKernelConfig) -> None:
        self._config = config

    def choose_roles(self, exposures: Exposures, mode: str) -> Roles:
        """Choose the image that is convolved."""
        science, template = exposures.prepared_science, exposures.prepared_template
        sharper = exposures.fwhm_template <= exposures.fwhm_science
        if mode == "convolveTemplate" or (mode == "auto" and sharper):
            return Roles(convolved=template, target=science, template_convolved=True)
        return Roles(convolved=science, target=template, template_convolved=False)

    def match(
        self,
        exposures: Exposures,
        roles: Roles,
        candidates: KernelCandidates,
        *,
        min_sources: int,
        record: Callable[[str, object], None],
    ) -> MatchResult:
        """Determine the kernel."""
        widths = exposures.fwhm_template, exposures.fwhm_science
        convolved, target = widths if roles.template_convolved else widths[::-1]
        basis, mode = make_basis(self._config, fwhm_convolved=convolved, fwhm_target=target)
        settings = make_settings(self._config, fwhm=exposures.widest, min_sources=min_sources)
        fit = partial(
            match_images,
            roles.convolved.data,
            roles.target.data,
            candidates=candidates,
            settings=settings,
        )
        match = fit(basis=basis)
        wide = make_wide_bases(self._config, fwhm_convolved=convolved, fwhm_target=target)
        better = self._choose_wide(roles, candidates, basis, wide)
        if better is not None and _predicts_better(richer := fit(basis=better), match):
            match, mode = richer, "wide"
        basis = match.solution.basis
        record("ALBasisNGauss", len(basis.sigmas))
        record("ALBasisDegGauss", list(basis.degrees))
        record("ALBasisSigGauss", [float(s) for s in basis.sigmas])
        record("ALKernelSize", basis.size)
        record("ALBasisMode", mode)
        return match

    def _choose_wide(
        self,
        roles: Roles,
        candidates: KernelCandidates,
        basis: AlardLuptonBasis,
        others: list[AlardLuptonBasis],
    ) -> AlardLuptonBasis | None:
        """Return the basis to try instead, if by the PSF models the first is not good enough."""
        limit = self._config.maxModelMisfit
        misfit = partial(model_misfit, roles.convolved.data, roles.target.data, candidates=candidates)
        least, best = misfit(basis=basis), None
        for other in others:
            if least <= limit:
                break
            if (value := misfit(basis=other)) < least:
                least, best = value, other
        return best

    def subtract(self, exposures: Exposures, roles: Roles, match: MatchResult, *, cell: int) -> Subtraction:
        """Convolve, subtract, take away what is left of the background, propagate the variance."""
        solution, target = match.solution, roles.target.data.image
        kernel = solution.kernel_at
        matched = convolve_kernel(
            roles.convolved.data.image,
            kernel,
            size=solution.basis.size,
            side=_TILE,
            workers=get_num_threads(),
        )
        order, shape = solution.background_order, matched.shape
        matched += chebyshev_image(solution.background_terms, shape=shape, order=order)
        difference = target - matched
        bad = roles.target.data.bad | roles.convolved.data.bad
        correction = refine_background(difference, bad, cell=cell, order=order)
        left = chebyshev_image(correction, shape=shape, order=order)
        difference -= left
        terms = solution.background_terms + correction
        scale = 1.0
        if roles.template_convolved:
            matched += left
        else:
            scale = solution.kernel_sum
            difference /= np.float32(-scale)
            matched = target / np.float32(scale)
            terms = -terms / scale
        own, carried, noise = self._propagate(exposures, roles, kernel)
        psf = exposures.science.psf if roles.template_convolved else exposures.template.psf
        return Subtraction(
            difference=difference,
            matched=matched,
            variance=(own + carried) / np.float32(scale**2),
            matched_variance=carried if roles.template_convolved else own / np.float32(scale**2),
            psf=psf,
            matched_psf=psf,
            background_terms=terms,
            kernel_model=kernel_from_solution(solution, exposures.science.bbox),
            centre_kernel=solution.kernel_at(np.array([shape[1] / 2]), np.array([shape[0] / 2]))[0],
            noise=noise,
            template_convolved=roles.template_convolved,
            whitened=False,
        )

    def _propagate(
        self, exposures: Exposures, roles: Roles, kernel: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Return variances of target and convolved image, pixel by pixel, and their typical sum."""
        pair = (exposures.template, exposures.science)
        convolved, target = pair if roles.template_convolved else pair[::-1]
        shape = target.image.array.shape
        sky = convolved_noise(roles.convolved.data.sky, kernel)

        def filters(x: np.ndarray, y: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
            transforms = transform_stamps(kernel(x, y).astype(np.float32), side)
            return np.ones_like(transforms), transforms

        carried = propagate_variance(
            np.zeros(shape, np.float32),
            measure_excess(convolved, roles.convolved),
            filters=filters,
            sky=sky.image(shape),
        )
        own = roles.target.data.sky.image(shape) + measure_excess(target, roles.target)
        return own, carried, sky.median + roles.target.data.sky.median


def _predicts_better(match: MatchResult, other: MatchResult) -> bool:
    """Tell whether a match predicts stars that it has not seen better than another; yes if nobody asked."""
    scores = [float(np.nanmin(m.scores)) if np.isfinite(m.scores).any() else np.nan for m in (match, other)]
    return not scores[0] >= scores[1]
