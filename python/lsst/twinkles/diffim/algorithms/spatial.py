"""Chebyshev polynomials over an image, in the convention of `lsst.images.fields.ChebyshevField`."""

from __future__ import annotations

__all__ = (
    "chebyshev_coefficients",
    "chebyshev_image",
    "chebyshev_orders",
    "chebyshev_rows",
    "chebyshev_terms",
)

import numpy as np
from numpy.polynomial import chebyshev


def chebyshev_orders(order: int) -> np.ndarray:
    """Return the (y, x) degrees of the terms of total degree up to ``order``, ``(n_terms, 2)``."""
    return np.array([(total - p, p) for total in range(order + 1) for p in range(total, -1, -1)])


def chebyshev_terms(
    *, x: np.ndarray | float, y: np.ndarray | float, shape: tuple[int, int], order: int
) -> np.ndarray:
    """Evaluate the terms ``T_p(y) T_q(x)``, ``p + q <= order``, at positions.

    Parameters
    ----------
    x, y : array-like, ``(N,)``
        Pixel positions; the image spans -0.5 to ``size - 0.5``, mapped to [-1, 1].
    shape : `tuple` [`int`, `int`]
        Shape ``(Ny, Nx)`` of the image.
    order : `int`
        Largest total degree.

    Returns
    -------
    terms : `numpy.ndarray`, ``(N, n_terms)``
        Values, the constant term first.
    """
    u = (np.atleast_1d(np.asarray(x, float)) + 0.5) * (2.0 / shape[1]) - 1.0
    v = (np.atleast_1d(np.asarray(y, float)) + 0.5) * (2.0 / shape[0]) - 1.0
    tu, tv = chebyshev.chebvander(u, order), chebyshev.chebvander(v, order)
    orders = chebyshev_orders(order)
    return tv[:, orders[:, 0]] * tu[:, orders[:, 1]]


def chebyshev_coefficients(values: np.ndarray, order: int) -> np.ndarray:
    """Arrange term coefficients as the ``(order+1, order+1)`` matrix indexed by degree in y and x."""
    matrix = np.zeros((order + 1, order + 1))
    orders = chebyshev_orders(order)
    matrix[orders[:, 0], orders[:, 1]] = values
    return matrix


def chebyshev_image(values: np.ndarray, *, shape: tuple[int, int], order: int) -> np.ndarray:
    """Evaluate a polynomial on every pixel; ``shape`` float32 array."""
    u = (np.arange(shape[1]) + 0.5) * (2.0 / shape[1]) - 1.0
    v = (np.arange(shape[0]) + 0.5) * (2.0 / shape[0]) - 1.0
    tu = chebyshev.chebvander(u, order).astype(np.float32)
    tv = chebyshev.chebvander(v, order).astype(np.float32)
    return tv @ chebyshev_coefficients(values, order).astype(np.float32) @ tu.T


def chebyshev_rows(values: np.ndarray, *, shape: tuple[int, int], order: int) -> np.ndarray:
    """Return a polynomial as one of powers along each row.

    Parameters
    ----------
    values : `numpy.ndarray`
        Coefficients in the order of `chebyshev_terms`.
    shape, order
        As there.

    Returns
    -------
    rows : `numpy.ndarray`, ``(Ny, order + 1)``
        Coefficients for each row of the powers of ``(x + 0.5) * 2 / Nx - 1``, the constant first.
    """
    v = (np.arange(shape[0]) + 0.5) * (2.0 / shape[0]) - 1.0
    powers = np.zeros((order + 1, order + 1))
    for q in range(order + 1):
        powers[q, : q + 1] = chebyshev.cheb2poly(np.eye(order + 1)[q, : q + 1])
    return np.asarray(chebyshev.chebvander(v, order) @ chebyshev_coefficients(values, order) @ powers)
