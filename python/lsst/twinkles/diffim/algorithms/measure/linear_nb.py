"""Compiled solution of small positive definite systems."""

from __future__ import annotations

__all__ = ("factorize", "invert", "solve_factorized")

import math

import numpy as np

from ..compile_nb import LEAN, njit

# A pivot below this share of its diagonal element means that the matrix is singular.
_SMALLEST = 1e-10


@njit(**LEAN)
def factorize(matrix, damping, lower):  # type: ignore[no-untyped-def]
    """Make the Cholesky factor of a matrix whose diagonal is raised by a fraction; tell whether there is one.

    Parameters
    ----------
    matrix : ``(M, M)``, float64
        Symmetric matrix, of which the first ``N`` rows and columns count; not modified.
    damping : `float`
        Fraction by which the diagonal is raised (Marquardt's).
    lower : ``(N, N)``, float64
        Filled with the lower factor.
    """
    n = len(lower)
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j] * (1.0 + damping) if i == j else matrix[i, j]
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            if i == j:
                if not total > _SMALLEST * matrix[i, i]:
                    return False
                lower[i, i] = math.sqrt(total)
            else:
                lower[i, j] = total / lower[j, j]
    return True


@njit(**LEAN)
def solve_factorized(lower, right, out):  # type: ignore[no-untyped-def]
    """Solve for a right-hand side with a Cholesky factor ``(N, N)``; fills ``out``, ``(N,)``."""
    n = len(lower)
    for i in range(n):
        total = right[i]
        for k in range(i):
            total -= lower[i, k] * out[k]
        out[i] = total / lower[i, i]
    for i in range(n - 1, -1, -1):
        total = out[i]
        for k in range(i + 1, n):
            total -= lower[k, i] * out[k]
        out[i] = total / lower[i, i]


@njit(**LEAN)
def invert(matrix, lower, out):  # type: ignore[no-untyped-def]
    """Invert a positive definite matrix into ``out``; tell whether it is one.

    ``lower``, ``(N, N)``, is work space, and tells how many rows and columns count.
    """
    if not factorize(matrix, 0.0, lower):
        return False
    n = len(lower)
    unit, column = np.empty(n), np.empty(n)
    for i in range(n):
        for j in range(n):
            unit[j] = 1.0 if j == i else 0.0
        solve_factorized(lower, unit, column)
        for j in range(n):
            out[j, i] = column[j]
    return True
