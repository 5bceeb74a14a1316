"""Kernels and functions of `lsst.afw.math`, as they are stored in table archives."""

from __future__ import annotations

__all__ = ("KERNEL_READERS", "Kernel")

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import override

import numpy as np

from ...algorithms.warp.stamps import Stamp
from .archive import AfwComponentError, Reader, Row, StoredObject, TableArchive

Function2 = Callable[[np.ndarray | float, np.ndarray | float], np.ndarray]
"""A function of x and y."""


@dataclass(frozen=True)
class Kernel(ABC):
    """A kernel that may vary with position.

    Attributes
    ----------
    width, height : `int`
        Size in pixels.
    centre_x, centre_y : `int`
        Which pixel is its origin.
    """

    width: int
    height: int
    centre_x: int
    centre_y: int

    @property
    def is_varying(self) -> bool:
        """Whether it depends on position (`bool`)."""
        return False

    @abstractmethod
    def raw_image(self, *, x: float, y: float) -> np.ndarray:
        """Return the values ``(height, width)`` at a position as they are stored."""

    def image(self, *, x: float, y: float) -> Stamp:
        """Return the image of unit sum at a position, with its origin at (0, 0)."""
        return Stamp(self.raw_image(x=x, y=y), -self.centre_x, -self.centre_y).normalised()


@dataclass(frozen=True)
class FixedKernel(Kernel):
    """A kernel given by its pixels, ``(height, width)``."""

    array: np.ndarray

    @override
    def raw_image(self, *, x: float, y: float) -> np.ndarray:
        return self.array


@dataclass(frozen=True)
class LinearCombinationKernel(Kernel):
    """A sum of kernels; the coefficients are numbers, or functions of position."""

    images: np.ndarray
    amplitudes: np.ndarray | None
    functions: tuple[Function2, ...] | None

    @property
    @override
    def is_varying(self) -> bool:
        return self.functions is not None

    @override
    def raw_image(self, *, x: float, y: float) -> np.ndarray:
        if self.functions is not None:
            coefficients = np.array([float(function(x, y)) for function in self.functions])
        else:
            assert self.amplitudes is not None, "checked when it was read"
            coefficients = self.amplitudes
        return np.tensordot(coefficients, self.images, axes=1)


@dataclass(frozen=True)
class AnalyticKernel(Kernel):
    """A kernel that samples a function, the parameters of which may be functions of position."""

    family: Callable[..., Function2]
    parameters: tuple[float, ...]
    functions: tuple[Function2, ...] | None = None

    @property
    @override
    def is_varying(self) -> bool:
        return self.functions is not None

    @override
    def raw_image(self, *, x: float, y: float) -> np.ndarray:
        parameters = self.parameters
        if self.functions is not None:
            parameters = tuple(float(function(x, y)) for function in self.functions)
        v, u = np.mgrid[: self.height, : self.width].astype(float)
        return np.asarray(self.family(*parameters)(u - self.centre_x, v - self.centre_y))


# Functions -------------------------------------------------------------------


def gaussian(sigma1: float, sigma2: float, angle: float) -> Function2:
    """Return an elliptical Gaussian; ``angle`` in radian is that of axis 1 from x to y."""

    def evaluate(x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
        along = math.cos(angle) * x + math.sin(angle) * y
        across = -math.sin(angle) * x + math.cos(angle) * y
        return np.exp(-0.5 * ((along / sigma1) ** 2 + (across / sigma2) ** 2)) / (
            2 * math.pi * sigma1 * sigma2
        )

    return evaluate


def double_gaussian(sigma1: float, sigma2: float, ratio: float) -> Function2:
    """Return the sum of two round Gaussians; ``ratio`` is that of the peaks, of the second to the first."""

    def evaluate(x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
        r2 = np.asarray(x) ** 2 + np.asarray(y) ** 2
        light = np.exp(-r2 / (2 * sigma1**2)) + ratio * np.exp(-r2 / (2 * sigma2**2))
        return light / (2 * math.pi * (sigma1**2 + ratio * sigma2**2))

    return evaluate


def polynomial(coefficients: np.ndarray) -> Function2:
    """Return a polynomial with terms in the order 1, x, y, x^2, x y, y^2, ..."""
    matrix = _triangle(coefficients)
    return lambda x, y: np.polynomial.polynomial.polyval2d(x, y, matrix)


def chebyshev(coefficients: np.ndarray, box: tuple[float, float, float, float]) -> Function2:
    """Return a sum of products of Chebyshev polynomials on a box of least x, y and greatest x, y."""
    matrix = _triangle(coefficients)
    x1, y1, x2, y2 = box

    def evaluate(x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
        u = (2.0 * np.asarray(x) - x1 - x2) / (x2 - x1)
        v = (2.0 * np.asarray(y) - y1 - y2) / (y2 - y1)
        return np.polynomial.chebyshev.chebval2d(u, v, matrix)

    return evaluate


def _triangle(coefficients: np.ndarray) -> np.ndarray:
    """Return coefficients ``[i, j]`` of x and y from a list that is ordered by total order, x first."""
    n = len(coefficients)
    order = (math.isqrt(8 * n + 1) - 3) // 2
    if (order + 1) * (order + 2) // 2 != n:
        raise ValueError(f"{n} coefficients belong to no polynomial of two variables")
    matrix = np.zeros((order + 1, order + 1))
    pairs = [(total - j, j) for total in range(order + 1) for j in range(total + 1)]
    for (i, j), value in zip(pairs, coefficients, strict=True):
        matrix[i, j] = value
    return matrix


# Readers ---------------------------------------------------------------------


def _shape(row: Row) -> tuple[int, int, int, int]:
    """Return width, height and centre of a kernel."""
    width, height, x, y = (int(row[k]) for k in ("dimensions_x", "dimensions_y", "center_x", "center_y"))
    if not (0 < width <= 10_000 and 0 < height <= 10_000 and 0 <= x < width and 0 <= y < height):
        raise ValueError(f"a kernel of {width} x {height} pixels cannot have its centre at {x}, {y}")
    return width, height, x, y


def _functions(archive: TableArchive, row: Row) -> tuple[Function2, ...] | None:
    """Return the spatial functions of a kernel, `None` if it does not vary."""
    if "spatialfunctions" not in row:
        return None
    functions = tuple(archive.get(number) for number in np.atleast_1d(row["spatialfunctions"]))
    if not all(callable(function) for function in functions):
        raise ValueError("one of its spatial functions is none")
    return functions


def _read_fixed(archive: TableArchive, stored: StoredObject) -> FixedKernel:
    row = stored.row()
    width, height, x, y = _shape(row)
    array = np.asarray(row["image"], dtype=float).reshape(height, width)
    return FixedKernel(width, height, x, y, array)


def _read_combination(archive: TableArchive, stored: StoredObject) -> LinearCombinationKernel:
    row = stored.row()
    width, height, x, y = _shape(row)
    kernels = [archive.get(number) for number in np.atleast_1d(row["components"])]
    for kernel in kernels:
        if (
            not isinstance(kernel, Kernel)
            or kernel.is_varying
            or (kernel.height, kernel.width) != (height, width)
        ):
            raise AfwComponentError(stored.name, "a component is no constant kernel of the same size")
    functions = _functions(archive, row)
    amplitudes = None if functions is not None else np.atleast_1d(row["amplitudes"]).astype(float)
    if len(kernels) != len(functions if functions is not None else amplitudes):  # type: ignore[arg-type]
        raise AfwComponentError(stored.name, "it has not as many coefficients as components")
    images = np.array([kernel.raw_image(x=0.0, y=0.0) for kernel in kernels])
    return LinearCombinationKernel(width, height, x, y, images, amplitudes, functions)


def _read_delta(archive: TableArchive, stored: StoredObject) -> FixedKernel:
    row = stored.row()
    width, height, x, y = _shape(row)
    array = np.zeros((height, width))
    array[int(row["pixel_y"]), int(row["pixel_x"])] = 1.0
    return FixedKernel(width, height, x, y, array)


def _read_analytic(archive: TableArchive, stored: StoredObject) -> AnalyticKernel:
    row = stored.row()
    family = archive.get(int(row["kernelfunction"]))
    if not isinstance(family, _Family):
        raise AfwComponentError(stored.name, "its function is not one that can be sampled")
    return AnalyticKernel(*_shape(row), family.make, family.parameters, _functions(archive, row))


@dataclass(frozen=True)
class _Family:
    """A function of position that is known by its parameters."""

    make: Callable[..., Function2]
    parameters: tuple[float, ...]

    def __call__(self, x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
        return self.make(*self.parameters)(x, y)


def _read_gaussian(archive: TableArchive, stored: StoredObject) -> _Family:
    row = stored.row()
    return _Family(gaussian, tuple(float(row[key]) for key in ("sigma1", "sigma2", "angle")))


def _read_double_gaussian(archive: TableArchive, stored: StoredObject) -> _Family:
    row = stored.row()
    return _Family(double_gaussian, tuple(float(row[key]) for key in ("sigma1", "sigma2", "ampl2")))


def _read_polynomial(archive: TableArchive, stored: StoredObject) -> Function2:
    return polynomial(np.atleast_1d(stored.row()["coefficients"]))


def _read_chebyshev(archive: TableArchive, stored: StoredObject) -> Function2:
    row = stored.row()
    box = tuple(float(row[key]) for key in ("min_x", "min_y", "max_x", "max_y"))
    return chebyshev(np.atleast_1d(row["coefficients"]), box)  # type: ignore[arg-type]


KERNEL_READERS: dict[str, Reader] = {
    "FixedKernel": _read_fixed,
    "LinearCombinationKernel": _read_combination,
    "DeltaFunctionKernel": _read_delta,
    "AnalyticKernel": _read_analytic,
}
"""Readers of kernels and functions by name of class."""

for _suffix in "FD":  # of single and double precision
    KERNEL_READERS[f"GaussianFunction2{_suffix}"] = _read_gaussian
    KERNEL_READERS[f"DoubleGaussianFunction2{_suffix}"] = _read_double_gaussian
    KERNEL_READERS[f"PolynomialFunction2{_suffix}"] = _read_polynomial
    KERNEL_READERS[f"Chebyshev1Function2{_suffix}"] = _read_chebyshev
