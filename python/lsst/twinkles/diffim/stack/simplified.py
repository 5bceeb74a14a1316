"""Subtraction with a kernel that is there, in the place of the stack's."""

from __future__ import annotations

__all__ = ("SimplifiedSubtractTask",)

from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from lsst.pipe.base import Struct
from lsst.utils.timer import timeMethod

from ..adapters.kernels import evaluate_kernel
from ..tasks.alard_lupton import AlardLuptonEngine
from ..tasks.engines import scale_template_sky
from .subtract_config import SimplifiedSubtractConfig
from .subtract_images import AlardLuptonSubtractTask

if TYPE_CHECKING:
    from lsst.images import Box
    from lsst.images.convolution_kernels import ImageBasisConvolutionKernel


@dataclass(frozen=True)
class _GivenKernel:
    """A kernel in the place of `~lsst.twinkles.diffim.algorithms.match.solve.KernelSolution`.

    Attributes
    ----------
    kernel : `lsst.images.convolution_kernels.ImageBasisConvolutionKernel`
        The kernel.
    bbox : `lsst.images.Box`
        Pixels of the exposures.
    background_order : `int`
        Degree of the background that is looked for in the difference; the kernel brings none.
    """

    kernel: ImageBasisConvolutionKernel
    bbox: Box
    background_order: int

    @property
    def basis(self) -> Any:
        return SimpleNamespace(size=self.kernel.basis.shape[-1], images=lambda: self.kernel.basis)

    @property
    def background_terms(self) -> np.ndarray:
        return np.zeros((self.background_order + 1) * (self.background_order + 2) // 2)

    @cached_property
    def kernel_sum(self) -> float:
        ny, nx = self.bbox.shape
        return float(self.kernel_at(np.array([nx / 2]), np.array([ny / 2])).sum())

    def kernel_at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return evaluate_kernel(self.kernel, self.bbox, x=x, y=y)

    def coefficient_matrices(self) -> np.ndarray:
        """Return zeros: results carry the given kernel itself."""
        return np.zeros((len(self.kernel.basis), 1, 1))


class SimplifiedSubtractTask(AlardLuptonSubtractTask):
    """Subtract with a kernel that is there, with the interface of ip_diffim's ``SimplifiedSubtractTask``."""

    ConfigClass = SimplifiedSubtractConfig
    _DefaultName = "simplifiedSubtract"
    config: SimplifiedSubtractConfig

    @timeMethod
    def run(  # type: ignore[override]
        self, template: Any, science: Any, visitSummary: Any = None, inputPsfMatchingKernel: Any = None
    ) -> Struct:
        """Subtract.

        Parameters
        ----------
        template, science, visitSummary
            As for `AlardLuptonSubtractTask.run`.
        inputPsfMatchingKernel : `lsst.afw.math.LinearCombinationKernel`, optional
            The kernel, of fixed images and Chebyshev polynomials; required, and only used, if
            ``useExistingKernel``. It is that of the template or of the science exposure, as ``mode`` says.

        Returns
        -------
        results : `lsst.pipe.base.Struct`
            As for `AlardLuptonSubtractTask.run`; ``backgroundModel`` is `None`, and there are no
            ``kernelSources``, if the kernel was there.

        Raises
        ------
        ValueError
            There is no kernel, or it is of another kind.
        """
        if not self.config.useExistingKernel:
            return super().run(template, science, None, visitSummary=visitSummary)
        kernel = _convert(inputPsfMatchingKernel)
        results = self._subtract(template, science, visitSummary, partial(self._use, kernel=kernel))
        results.backgroundModel = None
        return results

    def _use(self, pair: Any, mode: str, kernel: ImageBasisConvolutionKernel) -> tuple[None, Struct]:
        """Convolve, subtract and whiten."""
        engine = self.engine
        method = AlardLuptonEngine(engine.config.kernel["AL"])
        exposures = engine.prepare_pair(pair.science_image, pair.template_image)
        roles = method.choose_roles(exposures, mode)
        given = _GivenKernel(kernel, pair.science_image.bbox, engine.config.kernel.active.spatialBgOrder)
        match: Any = SimpleNamespace(solution=given)
        subtraction = method.subtract(exposures, roles, match, cell=engine.config.backgroundCell)
        images = engine.assemble(exposures, replace(subtraction, kernel_model=kernel))
        result = Struct(
            convolvedTemplate=roles.template_convolved,
            whitened=False,
            templateBackground=scale_template_sky(exposures, roles, match, order=given.background_order),
            **images.getDict(),
        )
        self.metadata["convolvedExposure"] = "Template" if roles.template_convolved else "Science"
        return None, self._whiten(pair, result)


def _convert(kernel: Any) -> ImageBasisConvolutionKernel:
    """Return a kernel of the stack as one of `lsst.images`."""
    from lsst.images.convolution_kernels import ImageBasisConvolutionKernel

    if kernel is None:
        raise ValueError(
            "useExistingKernel=True asks for inputPsfMatchingKernel, which is None; give a kernel, or set "
            "useExistingKernel=False to have one made."
        )
    try:
        result = ImageBasisConvolutionKernel.from_legacy(kernel)
    except (TypeError, ValueError) as error:
        raise ValueError(f"inputPsfMatchingKernel cannot be used: {error}") from error
    height, width = result.basis.shape[1:]
    if height != width or height % 2 == 0:
        raise ValueError(
            f"inputPsfMatchingKernel has {width} x {height} pixels; it has to be odd and square."
        )
    return result
