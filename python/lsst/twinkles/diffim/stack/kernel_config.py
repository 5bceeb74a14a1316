"""The ``makeKernel`` stage of the stack's configuration."""

from __future__ import annotations

__all__ = ("MakeKernelConfig", "MakeKernelTask", "StackKernelConfig", "make_engine_config")

from collections.abc import MutableSequence
from typing import TYPE_CHECKING, Any

from lsst.pex.config import (
    ChoiceField,
    Config,
    ConfigChoiceField,
    ConfigField,
    ConfigurableField,
    Field,
    FieldValidationError,
    RangeField,
)
from lsst.pipe.base import Task

from ..tasks.kernel import AlardLuptonKernelConfig, ZogyKernelConfig, make_basis
from ..tasks.subtract import AlardLuptonSubtractConfig
from .unused_fields import PlaceholderConfig, PlaceholderTask, UnusedField, add_unused_fields

if TYPE_CHECKING:
    from .subtract_config import AlardLuptonSubtractConfig as StackSubtractConfig

_ONE_FIT = "kernels of single stars are not fitted; all stamps are solved for at once"
_CLIPPING = "stamps are clipped by candidateChi2Max and candidateFluxMax"
_CONDITION = "eigenvalues below the largest over maxSpatialConditionNumber are cut"
_BACKGROUND = "the differential background is always part of the fit, a Chebyshev polynomial"
_UNUSED = (
    UnusedField("useAfwBackground", False, _BACKGROUND),
    UnusedField("usePcaForSpatialKernel", False, "the basis is taken as it is"),
    UnusedField("subtractMeanForPca", True, "the basis is taken as it is"),
    UnusedField("numPrincipalComponents", 5, "the basis is taken as it is"),
    UnusedField("singleKernelClipping", True, _ONE_FIT),
    UnusedField("kernelSumClipping", True, _ONE_FIT),
    UnusedField("spatialKernelClipping", True, _CLIPPING),
    UnusedField("checkConditionNumber", False, _CONDITION),
    UnusedField("candidateResidualMeanMax", 0.25, _CLIPPING),
    UnusedField("candidateResidualStdMax", 1.5, _CLIPPING),
    UnusedField("useCoreStats", False, _CLIPPING),
    UnusedField("candidateCoreRadius", 3, _CLIPPING),
    UnusedField("maxKsumSigma", 3.0, _ONE_FIT),
    UnusedField("maxConditionNumber", 5e7, _CONDITION),
    UnusedField("iterateSingleKernel", False, _ONE_FIT),
    UnusedField("constantVarianceWeighting", True, "stamps are weighted by a model of their variance"),
    UnusedField("calculateKernelUncertainty", False, "errors of the kernel are not propagated"),
    UnusedField("useBicForKernelBasis", False, "the spatial order is chosen by cross-validation"),
    UnusedField("alardDegGaussDeconv", 3, "deconvolution has the same basis", deprecated=True),
    UnusedField("alardNGaussDeconv", 3, "deconvolution has the same basis", deprecated=True),
)


@add_unused_fields(*_UNUSED)
class StackKernelConfig(AlardLuptonKernelConfig):
    """The Alard-Lupton kernel with all the names that the stack's has."""

    warpingConfig = ConfigField(
        doc="Of the stack; without effect here: templates come warped.", dtype=PlaceholderConfig
    )
    afwBackgroundConfig = ConfigField(
        doc=f"Of the stack; without effect here: {_BACKGROUND}.", dtype=PlaceholderConfig
    )
    fitForBackground = Field[bool](
        doc="Fit a differential background with the kernel? It always is.", default=True
    )
    kernelBasisSet = ChoiceField[str](
        doc="Basis.",
        default="alard-lupton",
        allowed={"alard-lupton": "Gaussians times polynomials.", "delta-function": "Not built."},
    )
    spatialModelType = ChoiceField[str](
        doc="Polynomials of the position.",
        default="chebyshev1",
        allowed={"chebyshev1": "Chebyshev polynomials.", "polynomial": "The same space; the same fit."},
    )
    conditionNumberType = ChoiceField[str](
        doc=f"Of the stack; without effect here: {_CONDITION}.",
        default="EIGENVALUE",
        allowed={"EIGENVALUE": "Ratio of eigenvalues.", "SVD": "Ratio of singular values."},
    )

    def validate(self) -> None:
        """Refuse a basis that is not there."""
        super().validate()
        if self.kernelBasisSet != "alard-lupton":
            raise FieldValidationError(
                type(self).kernelBasisSet,
                self,
                "kernelBasisSet='delta-function' is not built; set it to 'alard-lupton', or "
                "makeKernel.kernel.name to 'AL' or 'zogy'.",
            )


class DeltaFunctionKernelConfig(StackKernelConfig):
    """The stack's delta function kernel, which is not built."""

    def validate(self) -> None:
        """Refuse."""
        raise FieldValidationError(
            type(self).kernelBasisSet,
            self,
            "Kernels of delta functions (kernel.name='DF') are not built; set it to 'AL' or 'zogy'.",
        )


class MakeKernelConfig(StackKernelConfig):
    """Configuration of `MakeKernelTask`: as in the stack, what counts is ``kernel.active``."""

    kernel = ConfigChoiceField(
        doc="Method: AL, Alard & Lupton; zogy, proper subtraction (not in the stack); DF is not built.",
        typemap={"AL": StackKernelConfig, "DF": DeltaFunctionKernelConfig, "zogy": ZogyKernelConfig},
        default="AL",
    )
    selectDetection: Any = ConfigurableField(
        doc="Of the stack; without effect here: the subtraction finds its own stars.", target=PlaceholderTask
    )
    selectMeasurement: Any = ConfigurableField(
        doc="Of the stack; without effect here: the subtraction finds its own stars.", target=PlaceholderTask
    )
    fwhmExposureGrid = RangeField[int](
        doc="Positions along each axis at which a PSF without value at its average position is measured.",
        default=10,
        min=1,
    )
    fwhmExposureBuffer = RangeField[float](
        doc="Margin around them, as a fraction of the image.", default=0.05, min=0.0, max=0.5
    )


class MakeKernelTask(Task):
    """Settings of the matching kernel.

    The kernel itself is made by the subtraction of this package, in one step with the difference.
    """

    ConfigClass = MakeKernelConfig
    _DefaultName = "makeKernel"
    config: MakeKernelConfig

    def kernel_size(self, *, fwhm_convolved: float, fwhm_target: float) -> int:
        """Return the side of the kernel in pixels for PSFs of these FWHM, in pixels."""
        active = self.config.kernel.active
        if isinstance(active, ZogyKernelConfig):
            return int(active.matchedKernelSize)
        basis, _ = make_basis(active, fwhm_convolved=fwhm_convolved, fwhm_target=fwhm_target)
        return int(basis.size)


def make_engine_config(config: StackSubtractConfig) -> AlardLuptonSubtractConfig:
    """Return the configuration of this package's subtraction.

    Parameters
    ----------
    config : `~lsst.twinkles.diffim.stack.subtract_config.AlardLuptonSubtractConfig`
        Configuration under the stack's names. Its field ``engine`` holds what the stack has no name for.
    """
    engine: AlardLuptonSubtractConfig = config.engine.value.copy()
    engine.mode = getattr(config, "mode", "convolveTemplate")
    kernel = config.makeKernel.kernel
    engine.kernel.name = kernel.name
    _copy_fields(kernel.active, engine.kernel.active)
    # In the stack's files the order is what is wanted, and not too high for the stars: the highest to try.
    order = kernel.active.spatialKernelOrder
    engine.kernel.active.spatialKernelOrderMax = min(order, kernel.active.spatialKernelOrderMax)
    for name in ("badMaskPlanes", "excludeMaskPlanes", "preserveTemplateMask"):
        setattr(engine, name, list(getattr(config, name)))
    engine.renameTemplateMask = {"SAT": "SAT_TEMPLATE"} if "SAT" in config.renameTemplateMask else {}
    engine.minKernelSources, engine.maxKernelSources = config.minKernelSources, config.maxKernelSources
    return engine


def _copy_fields(source: Config, target: Config) -> None:
    for name in target:
        value = getattr(source, name)
        setattr(target, name, list(value) if isinstance(value, MutableSequence) else value)
