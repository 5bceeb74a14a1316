"""Division of an image into cells of equal size."""

from __future__ import annotations

__all__ = ("split_into_cells",)

import numpy as np


def split_into_cells(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return an image by cell.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``, floating point
        Image.
    height, width : `int`
        Sides of the cells.

    Returns
    -------
    cells : `numpy.ndarray`, ``(Cy, height, Cx, width)``
        NaN where cells reach beyond the upper rims of the image.
    """
    ny, nx = image.shape
    rows, columns = -(-ny // height), -(-nx // width)
    rims = (0, rows * height - ny), (0, columns * width - nx)
    return np.pad(image, rims, constant_values=np.nan).reshape(rows, height, columns, width)
