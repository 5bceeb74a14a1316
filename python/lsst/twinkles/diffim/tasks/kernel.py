"""Configuration of the matching kernel."""

from __future__ import annotations

__all__ = (
    "AlardLuptonKernelConfig",
    "KernelFitConfig",
    "ZogyKernelConfig",
    "make_basis",
    "make_correction_basis",
    "make_settings",
    "make_wide_bases",
)

import numpy as np

from lsst.pex.config import Config, Field, FieldValidationError, ListField, RangeField

from ..algorithms.match.basis import (
    SIGMA_TO_FWHM,
    AlardLuptonBasis,
    choose_gaussians,
    choose_kernel_size,
    make_alard_lupton_basis,
)
from ..algorithms.match.match import MatchSettings

# Degrees of the polynomials of the bases for PSFs of which neither contains the other.
_WIDE_DEGREES = (8, 10)


class KernelFitConfig(Config):
    """Choice of stamps and spatial variation, for all kinds of kernel.

    Names, meanings and defaults of the fields that the stack has too are the stack's.
    """

    # Stamps
    sizeCellX = RangeField[int](
        doc="Width in pixels of the cells that share out the stamps.", default=128, min=32
    )
    sizeCellY = RangeField[int](doc="Their height.", default=128, min=32)
    nStarPerCell = RangeField[int](
        doc="Stamps in each cell, at most (but see nStarSmallImage); -1 for all.", default=5, min=-1
    )
    nStarSmallImage = RangeField[int](
        doc="Stamps in all, where an image has so few cells that nStarPerCell would allow fewer.",
        default=50,
        min=0,
    )
    badMaskPlanes = ListField[str](
        doc="Planes whose pixels get no weight in a stamp.", default=["NO_DATA", "EDGE", "SAT", "BAD"]
    )
    maxBadFraction = RangeField[float](
        doc="A stamp with a larger share of such pixels is not used.", default=0.1, min=0.0, max=1.0
    )
    stampFwhmScaling = RangeField[float](
        doc="Half side of a stamp over the FWHM of the wider PSF.", default=3.0, min=1.0
    )

    # Spatial variation and fit
    spatialKernelOrder = RangeField[int](
        doc="Order of the kernel's spatial variation.", default=1, min=0, max=6
    )
    doChooseSpatialOrder = Field[bool](
        doc="Choose the order from 0 to spatialKernelOrderMax by cross-validation over the stamps? "
        "spatialKernelOrder is then not used.",
        default=True,
    )
    spatialKernelOrderMax = RangeField[int](doc="Largest order to try.", default=3, min=0, max=6)
    spatialBgOrder = RangeField[int](doc="Order of the differential background.", default=2, min=0, max=6)
    psfPriorStrengths = ListField[float](
        doc="Signal-to-noise ratios with which the PSF models may support the stars; "
        "the best is chosen by cross-validation, the first displaced only by a gain beyond its error.",
        default=[100.0, 0.0, 1000.0],
    )
    nFolds = RangeField[int](doc="Parts of the cross-validation.", default=5, min=2)
    maxSpatialIterations = RangeField[int](
        doc="Rounds of fit and clipping, at most.", default=5, min=1, max=20
    )
    candidateChi2Max = RangeField[float](
        doc="A stamp whose chi square exceeds what its brightness lets expect by so many "
        "standard deviations is left out.",
        default=4.0,
        min=1.0,
    )
    candidateFluxMax = RangeField[float](
        doc="The same for its residual flux, which betrays variable stars.", default=4.0, min=1.0
    )
    modelError = RangeField[float](
        doc="Error of a star's matched profile, as a fraction of it; keeps a few bright stars from "
        "deciding alone.",
        default=0.005,
        min=0.0,
    )
    maxSpatialConditionNumber = RangeField[float](
        doc="Eigenvalues of the normal equations below the largest over this are cut.", default=1e10, min=1.0
    )


class AlardLuptonKernelConfig(KernelFitConfig):
    """The Alard-Lupton kernel, with the stack's names and defaults."""

    alardNGauss = RangeField[int](doc="Number of Gaussians.", default=3, min=1)
    alardDegGauss = ListField[int](doc="Degree of the polynomial of each Gaussian.", default=[4, 2, 2])
    alardSigGauss = ListField[float](
        doc="Widths of the Gaussians in pixels, used if the PSFs are equally wide or scaleByFwhm is False.",
        default=[0.7, 1.5, 3.0],
    )
    alardGaussBeta = RangeField[float](
        doc="Ratio of the widths of successive Gaussians.", default=2.0, min=1.0, inclusiveMin=False
    )
    alardMinSig = RangeField[float](doc="Least width of a Gaussian, pixels.", default=0.7, min=0.25)
    alardMinSigDeconv = RangeField[float](
        doc="The same where the image to be convolved is the wider one, pixels.", default=0.4, min=0.25
    )
    scaleByFwhm = Field[bool](doc="Take widths and kernel size from the PSFs?", default=True)
    maxModelMisfit = RangeField[float](
        doc="If, by the PSF models, the best kernel leaves more than this of a star (rms over its profile), "
        "as where neither PSF contains the other, single Gaussians of higher degree are tried instead, and "
        "taken if they predict the stars better. Not without scaleByFwhm.",
        default=0.003,
        min=0.0,
    )
    kernelSize = RangeField[int](
        doc="Side of the kernel in pixels if not scaleByFwhm; odd.", default=21, min=3
    )
    kernelSizeFwhmScaling = RangeField[float](
        doc="Side of the kernel over the sigma of the widest Gaussian.", default=6.0, min=1.0
    )
    kernelSizeMin = RangeField[int](doc="Least side of the kernel in pixels; odd.", default=21, min=3)
    kernelSizeMax = RangeField[int](doc="Largest side of the kernel in pixels; odd.", default=35, min=3)

    def validate(self) -> None:
        """Check lengths and odd sizes."""
        super().validate()
        for name in ("alardDegGauss", "alardSigGauss"):
            if len(getattr(self, name)) != self.alardNGauss:
                _refuse(
                    self, name, f"has {len(getattr(self, name))} values for alardNGauss={self.alardNGauss}"
                )
        for name in ("kernelSize", "kernelSizeMin", "kernelSizeMax"):
            if getattr(self, name) % 2 == 0:
                _refuse(self, name, f"must be odd, got {getattr(self, name)}")
        if self.kernelSizeMin > self.kernelSizeMax:
            _refuse(self, "kernelSizeMin", f"{self.kernelSizeMin} exceeds kernelSizeMax={self.kernelSizeMax}")


class ZogyKernelConfig(KernelFitConfig):
    """Proper subtraction: the small kernel that corrects what the PSF models lack."""

    correctionSigmaFwhm = ListField[float](
        doc="Widths (sigma) of the Gaussians of the correction, over the FWHM of the wider PSF.",
        default=[0.2, 0.4, 0.8],
    )
    correctionDegrees = ListField[int](doc="Degree of the polynomial of each.", default=[2, 1, 0])
    correctionRidge = RangeField[float](
        doc="Strength with which the correction is held to a delta function where stars do not determine it: "
        "inverse of the standard deviation that its transform may have at any frequency.",
        default=100.0,
        min=0.0,
    )
    maxStarChi2 = RangeField[float](
        doc="If the brighter half of the stars fits with a larger median chi square a pixel, the PSF models "
        "are not good enough for this method, and AL is used instead, with a warning.",
        default=1.15,
        min=0.0,
    )
    correctionSize = RangeField[int](doc="Side of the correction in pixels; odd.", default=21, min=5)
    matchedKernelSize = RangeField[int](
        doc="Side in pixels of the kernel that makes the matched template; odd.", default=31, min=5
    )
    psfSize = RangeField[int](
        doc="Least side in pixels of the PSF stamps of the difference; odd.", default=41, min=11
    )

    def validate(self) -> None:
        """Check lengths and odd sizes."""
        super().validate()
        if len(self.correctionDegrees) != len(self.correctionSigmaFwhm):
            _refuse(
                self, "correctionDegrees", f"needs {len(self.correctionSigmaFwhm)} values, one for each width"
            )
        for name in ("correctionSize", "matchedKernelSize", "psfSize"):
            if getattr(self, name) % 2 == 0:
                _refuse(self, name, f"must be odd, got {getattr(self, name)}")


def _refuse(config: Config, name: str, text: str) -> None:
    raise FieldValidationError(type(config)._fields[name], config, f"{name} {text}.")


def make_correction_basis(config: ZogyKernelConfig, *, fwhm: float) -> AlardLuptonBasis:
    """Return the basis of the correction for PSFs of which the wider has a FWHM of ``fwhm`` pixels."""
    sigmas = np.maximum(0.5, fwhm * np.array(config.correctionSigmaFwhm))
    return make_alard_lupton_basis(sigmas, list(config.correctionDegrees), config.correctionSize, delta=True)


def make_basis(
    config: AlardLuptonKernelConfig, *, fwhm_convolved: float, fwhm_target: float
) -> tuple[AlardLuptonBasis, str]:
    """Return the kernel basis for two PSFs and how its widths were found.

    Parameters
    ----------
    config : `AlardLuptonKernelConfig`
        Configuration.
    fwhm_convolved, fwhm_target : `float`
        FWHM in pixels of the image to be convolved and of the one to be matched.
    """
    sigmas, mode = choose_gaussians(
        fwhm_convolved=fwhm_convolved,
        fwhm_target=fwhm_target,
        sigmas=list(config.alardSigGauss),
        beta=config.alardGaussBeta,
        min_sigma=config.alardMinSig,
        min_sigma_deconvolution=config.alardMinSigDeconv,
        scale_by_fwhm=config.scaleByFwhm,
    )
    size = config.kernelSize
    if config.scaleByFwhm:
        size = choose_kernel_size(
            sigmas,
            scaling=config.kernelSizeFwhmScaling,
            smallest=config.kernelSizeMin,
            largest=config.kernelSizeMax,
        )
    return make_alard_lupton_basis(sigmas, list(config.alardDegGauss), size), mode


def make_wide_bases(
    config: AlardLuptonKernelConfig, *, fwhm_convolved: float, fwhm_target: float
) -> list[AlardLuptonBasis]:
    """Return bases for PSFs of which neither contains the other, the smallest first.

    Notes
    -----
    Gaussians times polynomials up to a high degree span what a deconvolution along one axis asks for; three
    Gaussians of low degree do not. For elliptical Gaussians of ``(a - b) / (a + b) = 0.2`` at right angles
    the default basis leaves 2.5 percent of a star, degree 8 at this width 0.2 percent. The width is nearly
    the best from equal sizes to a target that is 2.5 times as wide.
    """
    if not config.scaleByFwhm:
        return []
    convolved, target = np.array([fwhm_convolved, fwhm_target]) / SIGMA_TO_FWHM
    sigma = np.sqrt(0.5 * convolved * target + 0.36 * abs(target**2 - convolved**2))
    size = choose_kernel_size(
        np.array([2.0 * sigma]),
        scaling=config.kernelSizeFwhmScaling,
        smallest=config.kernelSizeMin,
        largest=config.kernelSizeMax,
    )
    return [make_alard_lupton_basis(np.array([sigma]), [degree], size) for degree in _WIDE_DEGREES]


def make_settings(
    config: KernelFitConfig, *, fwhm: float, min_sources: int, ridge: float = 0.0
) -> MatchSettings:
    """Return the tunables of the fit for PSFs of which the wider has a FWHM of ``fwhm`` pixels."""
    orders = (
        range(config.spatialKernelOrderMax + 1)
        if config.doChooseSpatialOrder
        else [config.spatialKernelOrder]
    )
    return MatchSettings(
        kernel_orders=tuple(orders),
        background_order=config.spatialBgOrder,
        stamp_half=int(np.clip(round(config.stampFwhmScaling * fwhm), 8, 40)),
        min_sources=min_sources,
        model_error=config.modelError,
        clip_chi2=config.candidateChi2Max,
        clip_flux=config.candidateFluxMax,
        max_iterations=config.maxSpatialIterations,
        max_condition=config.maxSpatialConditionNumber,
        prior_strengths=tuple(config.psfPriorStrengths),
        n_folds=config.nFolds,
        sky_cell=64,
        ridge=ridge,
        filter_margin=int(np.clip(round(1.5 * fwhm), 6, 24)),
    )
