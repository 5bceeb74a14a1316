"""Coordinate systems and transforms of `lsst.afw.geom`, as they are stored in table archives.

The stack stores them in the text encoding of Starlink AST (Berry, Warren-Smith & Jenness 2016,
doi:10.1016/j.ascom.2016.02.003), which `lsst.images` reads; before 2018 as the numbers of a FITS header.
"""

from __future__ import annotations

__all__ = ("SKY_READERS", "PixelTransform", "SkySystem", "stack_ast_text")

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS

from .archive import AfwComponentError, Reader, StoredObject, TableArchive

if TYPE_CHECKING:
    from lsst.images import Bounds, DetectorFrame, SkyProjection, Transform

# Step in pixels of the differences that stand for derivatives; coordinates are smooth over several pixels.
_STEP = 2.0
# Parts without which AST takes a null pointer for them.
_NEEDED = {"CmpMap": {"MapA", "MapB"}, "TranMap": {"MapA", "MapB"}, "FrameSet": {"Nframe", "Frm1"}}


@dataclass(frozen=True)
class PixelTransform:
    """A transform between two pixel grids.

    Attributes
    ----------
    forward, inverse : `~collections.abc.Callable`
        Functions of arrays x and y that return arrays x and y.
    """

    forward: Callable[[Any, Any], tuple[np.ndarray, np.ndarray]]
    inverse: Callable[[Any, Any], tuple[np.ndarray, np.ndarray]]

    def linearise_inverse(self, *, x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
        """Return ``matrix`` and ``offset`` of the affine transform that is the inverse near a position.

        Returns
        -------
        matrix, offset : `numpy.ndarray`, ``(2, 2)`` and ``(2,)``
            Input position ``matrix @ (x, y) + offset`` of an output position.

        Raises
        ------
        ValueError
            If the transform is not defined there.
        """
        steps = np.array([-2.0, -1.0, 1.0, 2.0]) * _STEP
        zeros = np.zeros(4)
        px, py = self.inverse(
            x + np.concatenate([[0.0], steps, zeros]), y + np.concatenate([[0.0], zeros, steps])
        )
        points = np.array([px, py])
        weights = np.array([1.0, -8.0, 8.0, -1.0]) / (12 * _STEP)
        matrix = np.stack([points[:, 1:5] @ weights, points[:, 5:9] @ weights], axis=1)
        if not np.isfinite(points).all() or abs(np.linalg.det(matrix)) < 1e-12:
            raise ValueError(f"the transform is not defined at x={x:.1f}, y={y:.1f}")
        return matrix, points[:, 0] - matrix @ np.array([x, y])


@dataclass(frozen=True)
class SkySystem:
    """Celestial coordinates of a pixel grid: AST text, or a FITS WCS of pixels the first of which is 0, 0."""

    ast: str | None
    fits_wcs: WCS | None = None

    def projection(self, frame: DetectorFrame, bounds: Bounds | None = None) -> SkyProjection[DetectorFrame]:
        """Return the same as an `lsst.images.SkyProjection` of a pixel frame."""
        from lsst.images import SkyFrame, SkyProjection

        if self.ast is None:
            return SkyProjection.from_fits_wcs(self.fits_wcs, frame, pixel_bounds=bounds)
        return SkyProjection(_transform(self.ast, frame, SkyFrame.ICRS, bounds))

    def to_sky(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return right ascension and declination in radian."""
        return self._plain.forward(x, y)

    def to_pixel(self, ra: Any, dec: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y of a position in radian."""
        return self._plain.inverse(ra, dec)

    def then(self, other: SkySystem) -> PixelTransform:
        """Return the transform from these pixels to those of another system."""
        # Simplified, a transform between grids that differ by a shift or not at all is exactly that.
        combined = self._pixel_to_sky.then(other._pixel_to_sky.inverted())
        frame = combined.in_frame
        return _functions(_transform(combined.show(simplified=True), frame, frame))

    @cached_property
    def _pixel_to_sky(self) -> Transform[Any, Any]:
        from lsst.images import GeneralFrame

        return self.projection(GeneralFrame(unit=u.pix)).pixel_to_sky_transform  # type: ignore[arg-type]

    @cached_property
    def _plain(self) -> PixelTransform:
        return _functions(self._pixel_to_sky)


def stack_ast_text(projection: SkyProjection[Any]) -> str | None:
    """Return the AST text of celestial coordinates as the stack wants it.

    Parameters
    ----------
    projection : `lsst.images.SkyProjection`
        The coordinates.

    Returns
    -------
    text : `str` or `None`
        A frame set from pixels to the sky by way of intermediate world coordinates, with the stack's names
        for these frames; `None` if the coordinates are not of that form.
    """
    text = projection.show()
    domains = re.findall(r'^ *Domain = "(.*)"$', text, flags=re.MULTILINE)
    if not text.lstrip().startswith("Begin FrameSet") or "IWC" not in domains:
        return None
    if "PIXELS" not in domains:
        text = re.sub(r'^( *Domain = )"PIXEL"$', r'\1"PIXELS"', text, count=1, flags=re.MULTILINE)
    return text if re.search(r'^ *Domain = "PIXELS"$', text, flags=re.MULTILINE) else None


def _functions(transform: Transform[Any, Any]) -> PixelTransform:
    """Return a transform of `lsst.images` as functions of x and y."""
    return PixelTransform(
        forward=lambda x, y: tuple(transform.apply_forward(x=x, y=y)),  # type: ignore[return-value,arg-type]
        inverse=lambda x, y: tuple(transform.apply_inverse(x=x, y=y)),  # type: ignore[return-value,arg-type]
    )


def _transform(text: str, in_frame: Any, out_frame: Any, bounds: Bounds | None = None) -> Transform[Any, Any]:
    """Make a transform from AST text, by way of the serialised form of `lsst.images`."""
    from lsst.images import TransformSerializationModel

    _check_structure(text)
    model: Any = TransformSerializationModel.model_validate(
        {
            "frames": [in_frame.serialize(), out_frame.serialize()],
            "bounds": [None if bounds is None else bounds.serialize(), None],
            "mappings": [{"ast": text}],
        }
    )
    return model.deserialize(None)


def _check_structure(text: str) -> None:
    """Refuse AST text that is not built of objects within each other.

    AST (starlink-pyast 4) may end the process when it refuses text itself.
    """
    stack: list[tuple[str, set[str]]] = []
    announced = True  # whether the line before names an object that is to follow
    for words in (line.split() for line in text.splitlines()):
        if not words or words[0].startswith("#"):
            continue
        begins = words[0] == "Begin" and len(words) == 2
        is_item = words[1:2] == ["="] and words[0].isidentifier()
        if begins != announced or not (begins or is_item or words[0] in ("End", "IsA")):
            raise ValueError(f"its AST text has {' '.join(words)!r} in a wrong place")
        announced = is_item and len(words) == 2
        if begins:
            stack.append((words[1], set()))
        elif is_item:
            stack[-1][1].add(words[0])
        elif words[0] == "End":
            name, items = stack.pop()
            if words[1:] != [name] or not _NEEDED.get(name, set()) <= items:
                raise ValueError(f"its AST text has an incomplete {name}")
            if not stack:
                return
    raise ValueError("its AST text ends within an object")


def _text(value: Any) -> str:
    """Return the text that a column of bytes holds."""
    return bytes(np.atleast_1d(value).astype(np.uint8)).decode("ascii")


def _after_heading(name: str, text: str, words: int) -> str:
    """Drop version and class name (and whatever else there is) before the AST object."""
    parts = text.split(maxsplit=words)
    if len(parts) != words + 1 or parts[0] != "1" or parts[1] != name:
        raise AfwComponentError(name, f"its text begins with {' '.join(parts[:2])!r} instead of '1 {name}'")
    if not parts[words].startswith("Begin "):
        raise AfwComponentError(name, "its text has no AST object")
    return " " + parts[words]


def _read_sky_wcs(archive: TableArchive, stored: StoredObject) -> SkySystem:
    system = SkySystem(_after_heading("SkyWcs", _text(stored.row()["wcs"]), 3))
    system.to_sky(0.0, 0.0)  # parses it
    return system


def _read_transform(archive: TableArchive, stored: StoredObject) -> PixelTransform:
    from lsst.images import GeneralFrame

    text = _after_heading(stored.name, _text(stored.row()["bytes"]), 2)
    frame = GeneralFrame(unit=u.pix)
    return _functions(_transform(text, frame, frame))


def _read_old_wcs(archive: TableArchive, stored: StoredObject) -> SkySystem:
    """Read what was a FITS WCS, with SIP polynomials in a second table if it has any."""
    row = stored.tables[0][0]
    header = fits.Header()
    for axis, name in ((1, "x"), (2, "y")):
        header[f"CRVAL{axis}"] = row[f"crval_{name}"]
        header[f"CRPIX{axis}"] = row[f"crpix_{name}"] + 1.0  # stored for a first pixel of 0
        header[f"CTYPE{axis}"] = str(row[f"ctype{axis}"]).strip()
        header[f"CUNIT{axis}"] = str(row[f"cunit{axis}"]).strip()
    for key, value in zip(("CD1_1", "CD2_1", "CD1_2", "CD2_2"), row["cd"], strict=True):
        header[key] = value
    header["RADESYS"] = str(row["radesys"]).strip()
    if np.isfinite(row["equinox"]) and header["RADESYS"] != "ICRS":
        header["EQUINOX"] = row["equinox"]
    if len(stored.tables) > 1:
        _add_sip(header, stored.tables[1][0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        return SkySystem(None, WCS(header))


def _add_sip(header: fits.Header, row: dict[str, Any]) -> None:
    """Add SIP polynomials to a header (Shupe et al. 2005)."""
    for key, column in (("A", "A"), ("B", "B"), ("AP", "Ap"), ("BP", "Bp")):
        values = np.atleast_1d(row[column])
        n = round(np.sqrt(len(values)))
        if n * n != len(values):
            raise ValueError(f"the SIP matrix {column} of {len(values)} numbers is not square")
        header[f"{key}_ORDER"] = max(n - 1, 0)
        for j, i in np.ndindex(n, n):  # stored column by column
            if values[i + n * j]:
                header[f"{key}_{i}_{j}"] = float(values[i + n * j])
    for axis in (1, 2):
        header[f"CTYPE{axis}"] = header[f"CTYPE{axis}"].removesuffix("-SIP") + "-SIP"


SKY_READERS: dict[str, Reader] = {
    "SkyWcs": _read_sky_wcs,
    "TransformPoint2ToPoint2": _read_transform,
    "Wcs": _read_old_wcs,
    "TanWcs": _read_old_wcs,
}
"""Readers of coordinate systems and transforms by name of class."""
