"""The classes of the Rubin stack that `lsst.twinkles.diffim.stack` meets, in plain Python.

They behave as the stack's do as far as is used here: boxes with an origin, masks whose planes are bits of
one dictionary, views and deep copies of exposures, kernels and PSFs that are evaluated at positions,
catalogues with slots. Names, signatures and conventions are those of afw's documentation; the layout of
Chebyshev parameters and of kernel centres is that of the converters of `lsst.images`. ``install`` puts the
modules where imports find them, so that conversion code is run as it stands.
"""

import importlib
import sys
import types
from contextlib import contextmanager

import numpy as np

# ---------------------------------------------------------------------------------------------- lsst.geom


class _Pair:
    kind = float

    def __init__(self, x=0, y=None):
        if y is None and not np.isscalar(x):
            x, y = x
        elif y is None:
            y = x
        self.x, self.y = self.kind(x), self.kind(y)

    def getX(self):
        return self.x

    def getY(self):
        return self.y

    def __iter__(self):
        return iter((self.x, self.y))

    def __getitem__(self, i):
        return (self.x, self.y)[i]

    def __eq__(self, other):
        return type(self) is type(other) and tuple(self) == tuple(other)

    __hash__ = None

    def __repr__(self):
        return f"{type(self).__name__}({self.x}, {self.y})"


class Point2D(_Pair):
    pass


class Point2I(_Pair):
    kind = int


class Extent2D(_Pair):
    pass


class Extent2I(_Pair):
    kind = int


class IntervalI:
    def __init__(self, *, min, max):
        self.min, self.max = int(min), int(max)

    begin = property(lambda self: self.min)
    end = property(lambda self: self.max + 1)
    size = property(lambda self: self.max - self.min + 1)


class IntervalD:
    def __init__(self, *, min, max):
        self.min, self.max = float(min), float(max)


class Box2I:
    def __init__(self, corner=None, dimensions=None, *, x=None, y=None):
        if x is None and corner is None:
            x, y = IntervalI(min=0, max=-1), IntervalI(min=0, max=-1)
        elif x is None:
            w, h = dimensions
            x = IntervalI(min=corner.x, max=corner.x + w - 1)
            y = IntervalI(min=corner.y, max=corner.y + h - 1)
        self.x, self.y = x, y

    def getMinX(self):
        return self.x.min

    def getMinY(self):
        return self.y.min

    def getMaxX(self):
        return self.x.max

    def getMaxY(self):
        return self.y.max

    getBeginX, getBeginY = getMinX, getMinY

    def getWidth(self):
        return self.x.size

    def getHeight(self):
        return self.y.size

    def getArea(self):
        return self.x.size * self.y.size

    def getMin(self):
        return Point2I(self.x.min, self.y.min)

    def getMax(self):
        return Point2I(self.x.max, self.y.max)

    def getDimensions(self):
        return Extent2I(self.x.size, self.y.size)

    def getCenter(self):
        return Point2D((self.x.min + self.x.max) / 2, (self.y.min + self.y.max) / 2)

    def grow(self, n):
        self.x = IntervalI(min=self.x.min - n, max=self.x.max + n)
        self.y = IntervalI(min=self.y.min - n, max=self.y.max + n)

    def contains(self, other, y=None):
        if isinstance(other, Box2I):
            return self.contains(other.getMin()) and self.contains(other.getMax())
        x, y = (other.x, other.y) if y is None else (np.asarray(other), np.asarray(y))
        inside = (x >= self.x.min) & (x <= self.x.max) & (y >= self.y.min) & (y <= self.y.max)
        return inside if np.ndim(inside) else bool(inside)

    def __eq__(self, other):
        return (self.getMin(), self.getMax()) == (other.getMin(), other.getMax())

    __hash__ = None


class Box2D:
    def __init__(self, box, dimensions=None):
        if dimensions is None:  # half a pixel beyond the centres, as afw's conversion does
            self.x = IntervalD(min=box.x.min - 0.5, max=box.x.max + 0.5)
            self.y = IntervalD(min=box.y.min - 0.5, max=box.y.max + 0.5)
        else:
            self.x = IntervalD(min=box.x, max=box.x + dimensions.x)
            self.y = IntervalD(min=box.y, max=box.y + dimensions.y)


# ------------------------------------------------------------------------------------- lsst.pex.exceptions


class PexException(Exception):  # noqa: N818 (as the stack has it)
    """`lsst.pex.exceptions.Exception`."""


class InvalidParameterError(PexException, RuntimeError):
    pass


class RangeError(PexException, RuntimeError):
    pass


class InvalidPsfError(InvalidParameterError):
    """`lsst.afw.detection.InvalidPsfError`."""


# ------------------------------------------------------------------------------------------ lsst.afw.image


class Image:
    """An image or a view of one; ``XY0`` is the position of its first pixel."""

    dtype = None

    def __init__(self, source=None, *args, deep=False, dtype=None, xy0=None):
        dtype = np.dtype(dtype or self.dtype or np.float32)
        self._xy0 = xy0 or Point2I(0, 0)
        if isinstance(source, Box2I):
            self._array = np.zeros((source.getHeight(), source.getWidth()), dtype)
            self._xy0 = source.getMin()
        elif isinstance(source, Extent2I):
            self._array = np.zeros((source.y, source.x), dtype)
        else:
            array = np.asarray(source)
            assert array.dtype == dtype or deep, "afw does not convert the pixels of a view"
            self._array = array.astype(dtype, copy=deep)

    @property
    def array(self):
        return self._array

    @array.setter
    def array(self, values):
        self._array[...] = values

    def getX0(self):
        return self._xy0.x

    def getY0(self):
        return self._xy0.y

    def getXY0(self):
        return self._xy0

    def setXY0(self, xy0):
        self._xy0 = xy0

    def getDimensions(self):
        return Extent2I(self._array.shape[1], self._array.shape[0])

    def getBBox(self):
        return Box2I(self._xy0, self.getDimensions())

    def _view(self, array, xy0):
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__, _array=array, _xy0=xy0)
        return view

    def __getitem__(self, box):
        x, y = box.getMinX() - self.getX0(), box.getMinY() - self.getY0()
        if (
            x < 0
            or y < 0
            or y + box.getHeight() > len(self._array)
            or x + box.getWidth() > self._array.shape[1]
        ):
            raise InvalidParameterError("box not within image")
        return self._view(self._array[y : y + box.getHeight(), x : x + box.getWidth()], box.getMin())

    def clone(self):
        return self._view(self._array.copy(), self._xy0)


class ImageF(Image):
    dtype = np.float32


class ImageD(Image):
    dtype = np.float64


class Mask(Image):
    dtype = np.int32
    _planes = {}  # noqa: RUF012 (as in afw, one dictionary for all masks)

    @classmethod
    def reset(cls):
        names = ["BAD", "SAT", "INTRP", "CR", "EDGE", "DETECTED", "DETECTED_NEGATIVE", "SUSPECT", "NO_DATA"]
        Mask._planes = {name: bit for bit, name in enumerate(names)}

    @classmethod
    def getMaskPlaneDict(cls):
        return dict(cls._planes)

    @classmethod
    def addMaskPlane(cls, name):
        if name not in cls._planes:
            cls._planes[name] = next(b for b in range(31) if b not in cls._planes.values())
        return cls._planes[name]

    @classmethod
    def getPlaneBitMask(cls, names):
        mask = 0
        for name in [names] if isinstance(names, str) else names:
            if name not in cls._planes:
                raise InvalidParameterError(f"Invalid mask plane name: {name}")
            mask |= 1 << cls._planes[name]
        return mask


class MaskedImage:
    def __init__(self, image, mask=None, variance=None, dtype=None):
        if isinstance(image, Box2I):
            image, mask, variance = ImageF(image), Mask(image), ImageF(image)
        self.image, self.mask, self.variance = image, mask, variance

    def getBBox(self):
        return self.image.getBBox()

    def getImage(self):
        return self.image

    def getMask(self):
        return self.mask

    def getVariance(self):
        return self.variance

    def __getitem__(self, box):
        return MaskedImage(self.image[box], self.mask[box], self.variance[box])

    def clone(self):
        return MaskedImage(self.image.clone(), self.mask.clone(), self.variance.clone())


class MaskedImageF(MaskedImage):
    def __init__(self, dimensions):
        super().__init__(ImageF(dimensions), Mask(dimensions), ImageF(dimensions))


class FilterLabel:
    def __init__(self, band=None, physical=None):
        self._band, self._physical = band, physical

    bandLabel = property(lambda self: self._band)
    physicalLabel = property(lambda self: self._physical)

    def hasBandLabel(self):
        return self._band is not None

    def hasPhysicalLabel(self):
        return self._physical is not None

    @staticmethod
    def fromBandPhysical(band, physical):
        return FilterLabel(band, physical)

    def __eq__(self, other):
        return (self._band, self._physical) == (other._band, other._physical)

    __hash__ = None


class PhotoCalib:
    """A constant calibration: nanojanskys of one count."""

    def __init__(self, calibrationMean=1.0, calibrationErr=0.0, bbox=None):
        self._mean = calibrationMean

    def getCalibrationMean(self):
        return self._mean

    def instFluxToMagnitude(self, flux, point=None):
        return float(31.4 - 2.5 * np.log10(flux * self._mean))

    def getLocalCalibration(self, point):
        return self._mean

    def __eq__(self, other):
        return self._mean == other._mean

    __hash__ = None


class VisitInfo:
    def __init__(self, *, id=0, instrumentLabel="", date=None, exposureTime=30.0, boresightRaDec=None):
        self._id, self._instrument = id, instrumentLabel
        self._date, self._time, self.boresightRaDec = date, exposureTime, boresightRaDec

    def getId(self):
        return self._id

    def getInstrumentLabel(self):
        return self._instrument

    def getDate(self):
        """A date is an `astropy.time.Time`."""
        return types.SimpleNamespace(toAstropy=lambda: self._date)

    def getExposureTime(self):
        return self._time


class Detector:
    def __init__(self, number):
        self._id = number

    def getId(self):
        return self._id


class ApCorrMap(dict):
    pass


_INFO = ("Psf", "Wcs", "PhotoCalib", "Filter", "VisitInfo", "Detector", "ApCorrMap", "Id", "Metadata")


class ExposureInfo:
    def __init__(self, other=None):
        self.values = {name: None for name in _INFO} if other is None else dict(other.values)
        if other is None:
            self.values["PhotoCalib"], self.values["Metadata"] = PhotoCalib(), {}

    def __getattr__(self, name):
        if name[:3] == "get" and name[3:] in _INFO:
            return lambda: self.values[name[3:]]
        if name[:3] == "set" and name[3:] in _INFO:
            return lambda value: self.values.__setitem__(name[3:], value)
        if name == "id":
            return self.values["Id"]
        raise AttributeError(name)


class ExposureF:
    def __init__(self, maskedImage, info=None):
        self.maskedImage = MaskedImage(maskedImage) if isinstance(maskedImage, Box2I) else maskedImage
        self.info = ExposureInfo(info)

    image = property(lambda self: self.maskedImage.image)
    mask = property(lambda self: self.maskedImage.mask)
    variance = property(lambda self: self.maskedImage.variance)
    psf = property(lambda self: self.info.getPsf())
    wcs = property(lambda self: self.info.getWcs())
    photoCalib = property(lambda self: self.info.getPhotoCalib())
    filter = property(lambda self: self.info.getFilter())
    metadata = property(lambda self: self.info.getMetadata())

    def __getattr__(self, name):
        if name[3:] in _INFO and name[:3] in ("get", "set"):
            return getattr(self.info, name)
        raise AttributeError(name)

    def getInfo(self):
        return self.info

    def getMaskedImage(self):
        return self.maskedImage

    def getBBox(self):
        return self.maskedImage.getBBox()

    def getX0(self):
        return self.image.getX0()

    def getY0(self):
        return self.image.getY0()

    def __getitem__(self, box):
        return ExposureF(self.maskedImage[box], self.info)

    def clone(self):
        return ExposureF(self.maskedImage.clone(), self.info)


# ------------------------------------------------------------------------------------------- lsst.afw.geom


class SkyWcs:
    """A FITS WCS of the array whose first pixel is (0, 0)."""

    def __init__(self, wcs):
        self.wcs = wcs

    def pixelToSkyArray(self, x, y, degrees=False):
        ra, dec = self.wcs.pixel_to_world_values(x, y)
        return (ra, dec) if degrees else (np.radians(ra), np.radians(dec))

    def getFitsApproximation(self):
        return None

    def getFrameDict(self):
        from lsst.images import Box, DetectorFrame, SkyProjection

        frame = DetectorFrame(instrument="any", visit=1, detector=0, bbox=Box.factory[0:10, 0:10])
        return SkyProjection.from_fits_wcs(self.wcs, frame, pixel_bounds=None)._pixel_to_sky._ast_mapping

    def __eq__(self, other):
        return isinstance(other, SkyWcs) and self.wcs.wcs.compare(other.wcs.wcs)

    __hash__ = None


class Span:
    def __init__(self, y, x0, x1):
        self.y, self.x0, self.x1 = int(y), int(x0), int(x1)


class SpanSet:
    def __init__(self, spans):
        if isinstance(spans, Box2I):
            spans = [
                Span(y, spans.getMinX(), spans.getMaxX()) for y in range(spans.getMinY(), spans.getMaxY() + 1)
            ]
        self.spans = list(spans)

    def __iter__(self):
        return iter(self.spans)

    def getArea(self):
        return sum(s.x1 - s.x0 + 1 for s in self.spans)

    def getBBox(self):
        x0, x1 = min(s.x0 for s in self.spans), max(s.x1 for s in self.spans)
        y0, y1 = min(s.y for s in self.spans), max(s.y for s in self.spans)
        return Box2I(Point2I(x0, y0), Extent2I(x1 - x0 + 1, y1 - y0 + 1))

    def indices(self):
        y = np.concatenate([np.full(s.x1 - s.x0 + 1, s.y) for s in self.spans])
        x = np.concatenate([np.arange(s.x0, s.x1 + 1) for s in self.spans])
        return y, x


# -------------------------------------------------------------------------------------- lsst.afw.detection


class Peak:
    def __init__(self, x, y, value):
        self.x, self.y, self.value = x, y, value

    def getFx(self):
        return self.x

    def getFy(self):
        return self.y

    def getIx(self):
        return round(self.x)

    def getIy(self):
        return round(self.y)

    def getPeakValue(self):
        return self.value


class Footprint:
    def __init__(self, spans, region=None):
        self.spans, self.peaks = spans, []

    def addPeak(self, x, y, value):
        self.peaks.append(Peak(x, y, value))

    def getPeaks(self):
        return self.peaks

    def getSpans(self):
        return self.spans

    def getArea(self):
        return self.spans.getArea()

    def getBBox(self):
        return self.spans.getBBox()


class Quadrupole:
    def __init__(self, ixx, iyy, ixy):
        self._ixx, self._iyy, self._ixy = ixx, iyy, ixy

    def getIxx(self):
        return self._ixx

    def getIyy(self):
        return self._iyy

    def getTraceRadius(self):
        return float(np.sqrt(0.5 * (self._ixx + self._iyy)))

    def getDeterminantRadius(self):
        return float(max(self._ixx * self._iyy - self._ixy**2, 0.0) ** 0.25)


class Psf:
    pass


class KernelPsf(Psf):
    """`lsst.meas.algorithms.KernelPsf`: unit-sum images of a kernel."""

    def __init__(self, kernel, averagePosition=None):
        self._kernel, self._average = kernel, averagePosition or Point2D(0.0, 0.0)

    def getKernel(self):
        return self._kernel

    def getAveragePosition(self):
        return self._average

    def computeKernelImage(self, position=None):
        position = position or self._average
        image = ImageD(self._kernel.getDimensions())
        self._kernel.computeImage(image, True, position.x, position.y)
        centre = self._kernel.getCtr()
        image.setXY0(Point2I(-centre.x, -centre.y))
        return image

    def computeShape(self, position=None):
        """Adaptive moments, as afw's SdssShape has them."""
        import galsim

        stamp = self.computeKernelImage(position).array
        moments = galsim.hsm.FindAdaptiveMom(galsim.Image(stamp, scale=1.0), strict=False)
        if moments.error_message:
            return Quadrupole(np.nan, np.nan, np.nan)
        shape = moments.observed_shape
        size = moments.moments_sigma**2 / np.sqrt(1 - shape.e1**2 - shape.e2**2)
        return Quadrupole(size * (1 + shape.e1), size * (1 - shape.e1), size * shape.e2)


class GaussianPsf(KernelPsf):
    """`lsst.afw.detection.GaussianPsf`: samples of a Gaussian."""

    def __init__(self, width, height, sigma):
        y, x = np.mgrid[:height, :width] - np.array([height // 2, width // 2])[:, None, None]
        stamp = np.exp(-(x**2 + y**2) / (2.0 * sigma**2))
        super().__init__(FixedKernel(ImageD(stamp / stamp.sum())), Point2D(0.0, 0.0))


# ------------------------------------------------------------------------------------------- lsst.afw.math


class Chebyshev1Function2D:
    """Parameters in the order 1, x, y, x2, xy, y2 of the degrees of T(x) T(y)."""

    def __init__(self, order_or_params, xyRange):
        self._range = xyRange
        if np.isscalar(order_or_params):
            self._params = [0.0] * ((order_or_params + 1) * (order_or_params + 2) // 2)
        else:
            self._params = [float(p) for p in order_or_params]

    def getXYRange(self):
        return self._range

    def getNParameters(self):
        return len(self._params)

    def getParameters(self):
        return list(self._params)

    def getParameter(self, i):
        return self._params[i]

    def setParameter(self, i, value):
        self._params[i] = float(value)

    def getOrder(self):
        return next(n for n in range(30) if (n + 1) * (n + 2) // 2 == len(self._params))

    def __call__(self, x, y):
        n = self.getOrder()
        a, b = self._range.x, self._range.y
        coefficients = np.zeros((n + 1, n + 1))
        terms = ((d, p) for d in range(n + 1) for p in range(d + 1))
        for value, (d, p) in zip(self._params, terms, strict=True):
            coefficients[d - p, p] = value
        u, v = 2 * (x - a.min) / (a.max - a.min) - 1, 2 * (y - b.min) / (b.max - b.min) - 1
        return np.polynomial.chebyshev.chebval2d(u, v, coefficients)


class FixedKernel:
    def __init__(self, image):
        self._array = np.array(image.array, dtype=float)
        self._ctr = Point2I(self._array.shape[1] // 2, self._array.shape[0] // 2)

    def getDimensions(self):
        return Extent2I(self._array.shape[1], self._array.shape[0])

    def getWidth(self):
        return self._array.shape[1]

    def getCtr(self):
        return self._ctr

    def setCtr(self, centre):
        self._ctr = centre

    def isSpatiallyVarying(self):
        return False

    def _at(self, x, y):
        return self._array

    def computeImage(self, image, doNormalize=False, x=0.0, y=0.0):
        values = self._at(x, y)
        total = values.sum()
        image.array[...] = values / total if doNormalize else values
        return 1.0 if doNormalize else float(total)


class LinearCombinationKernel(FixedKernel):
    def __init__(self, kernels, functions):
        self._kernels, self._functions = list(kernels), list(functions)
        self._array = self._kernels[0]._array
        self._ctr = self._kernels[0].getCtr()

    def getKernelList(self):
        return self._kernels

    def getNBasisKernels(self):
        return len(self._kernels)

    def getSpatialFunctionList(self):
        return self._functions

    def isSpatiallyVarying(self):
        return True

    def _at(self, x, y):
        return sum(f(x, y) * k._array for f, k in zip(self._functions, self._kernels, strict=True))


class BackgroundMI:
    """A background of a box from one value a cell, as far as it is looked at here."""

    def __init__(self, bbox, stats):
        self.bbox, self.stats = bbox, stats

    def getImageBBox(self):
        return self.bbox

    def getStatsImage(self):
        return self.stats


class Interpolate:
    LINEAR = "LINEAR"
    AKIMA_SPLINE = "AKIMA_SPLINE"


class UndersampleStyle:
    REDUCE_INTERP_ORDER = "REDUCE_INTERP_ORDER"


class ApproximateControl:
    UNKNOWN = "UNKNOWN"


class PropertyList(dict):
    """`lsst.daf.base.PropertyList`."""


class BackgroundList(list):
    pass


# ------------------------------------------------------------------------------------------ lsst.afw.table

_TYPES = {
    "D": np.float64,
    "F": np.float32,
    "L": np.int64,
    "I": np.int32,
    "Flag": np.bool_,
    "Angle": np.float64,
}


class Field:
    def __init__(self, name, kind, doc, units):
        self.name, self.kind, self.doc, self.units = name, kind, doc, units

    def getName(self):
        return self.name

    def getTypeString(self):
        return self.kind

    def getUnits(self):
        return self.units

    def getDoc(self):
        return self.doc


class AliasMap(dict):
    def set(self, alias, target):
        self[alias] = target


class Schema:
    def __init__(self, fields=(), aliases=None):
        self.fields = dict(fields)
        self.aliases = AliasMap(aliases or {})

    def addField(self, name, type, doc="", units="", size=None):
        kind = {np.float64: "D", np.float32: "F", str: "String"}.get(type, type)
        if name in self.fields:
            raise InvalidParameterError(f"Field with name '{name}' already present in schema.")
        self.fields[name] = Field(name, kind, doc, units)
        return name

    def resolve(self, name):
        for alias, target in self.aliases.items():
            if name == alias or name.startswith(alias + "_"):
                return target + name[len(alias) :]
        return name

    def getAliasMap(self):
        return self.aliases

    def getNames(self):
        return set(self.fields)

    def __contains__(self, name):
        return self.resolve(name) in self.fields

    def __iter__(self):
        return (types.SimpleNamespace(field=f) for f in self.fields.values())

    def default(self, name):
        kind = self.fields[name].kind
        return "" if kind == "String" else _TYPES[kind](np.nan if kind in ("D", "F", "Angle") else 0)


class IdFactory:
    @staticmethod
    def makeSimple():
        return IdFactory(0)

    def __init__(self, start):
        self._last = start

    def __call__(self):
        self._last += 1
        return self._last


class SourceTable:
    def __init__(self, schema, factory):
        self.schema, self._factory, self._metadata = schema, factory, None

    @staticmethod
    def makeMinimalSchema():
        schema = Schema()
        schema.addField("id", "L", "unique ID")
        schema.addField("coord_ra", "Angle", "position in ra/dec")
        schema.addField("coord_dec", "Angle", "position in ra/dec")
        schema.addField("parent", "L", "unique ID of parent source")
        return schema

    @staticmethod
    def make(schema, factory=None):
        return SourceTable(schema, factory or IdFactory.makeSimple())

    def getSchema(self):
        return self.schema

    def setIdFactory(self, factory):
        self._factory = factory

    def setMetadata(self, metadata):
        self._metadata = metadata

    def newId(self):
        return self._factory()


class SourceRecord:
    def __init__(self, table):
        self.table = table
        self.values = {name: table.schema.default(name) for name in table.schema.fields}
        self._footprint = None

    def __getitem__(self, name):
        return self.values[self.table.schema.resolve(name)]

    def __setitem__(self, name, value):
        name = self.table.schema.resolve(name)
        kind = self.table.schema.fields[name].kind
        self.values[name] = value if kind == "String" else _TYPES[kind](value)

    def getTable(self):
        return self.table

    def getId(self):
        return int(self["id"])

    def setId(self, value):
        self["id"] = value

    def getX(self):
        return self["slot_Centroid_x"]

    def getY(self):
        return self["slot_Centroid_y"]

    def getPsfInstFlux(self):
        return self["slot_PsfFlux_instFlux"]

    def getFootprint(self):
        return self._footprint

    def setFootprint(self, footprint):
        self._footprint = footprint

    def copy(self, table):
        record = SourceRecord(table)
        record.values, record._footprint = dict(self.values), self._footprint
        return record


class SourceCatalog:
    """Records of one schema; a selection shares them, a deep copy does not."""

    def __init__(self, table_or_schema, records=()):
        table = SourceTable.make(table_or_schema) if isinstance(table_or_schema, Schema) else table_or_schema
        self.table, self.schema, self._records = table, table.schema, list(records)

    def getTable(self):
        return self.table

    metadata = property(lambda self: self.table._metadata)

    def setMetadata(self, metadata):
        self.table.setMetadata(metadata)

    def reserve(self, n):
        pass

    def addNew(self):
        record = SourceRecord(self.table)
        record.setId(self.table.newId())
        self._records.append(record)
        return record

    def append(self, record):
        self._records.append(record)

    def isContiguous(self):
        return True

    def __len__(self):
        return len(self._records)

    def __iter__(self):
        return iter(self._records)

    def __getitem__(self, key):
        if isinstance(key, str):
            name = self.schema.resolve(key)
            if name not in self.schema.fields:
                raise KeyError(f"Field with name '{key}' not found")
            values = [record.values[name] for record in self._records]
            kind = self.schema.fields[name].kind
            return np.array(values, dtype=object if kind == "String" else _TYPES[kind])
        if isinstance(key, slice):
            return SourceCatalog(self.table, self._records[key])
        if isinstance(key, np.ndarray):
            assert key.dtype == bool and len(key) == len(self), "afw takes a mask of the same length"
            return SourceCatalog(self.table, [r for r, k in zip(self._records, key, strict=True) if k])
        return self._records[key]

    def __setitem__(self, name, values):
        for record, value in zip(self._records, np.broadcast_to(values, len(self)), strict=True):
            record[name] = value

    def copy(self, deep=False):
        return SourceCatalog(
            self.table, [r.copy(self.table) for r in self._records] if deep else self._records
        )

    def getX(self):
        return self["slot_Centroid_x"]

    def getY(self):
        return self["slot_Centroid_y"]

    def getPsfInstFlux(self):
        return self["slot_PsfFlux_instFlux"]

    def getPsfInstFluxErr(self):
        return self["slot_PsfFlux_instFluxErr"]

    def asAstropy(self):
        from astropy.table import Table

        return Table({name: self[name] for name in self.schema.fields})


def updateSourceCoords(wcs, sources, include_covariance=True):
    """Set sky coordinates of centroids, and their errors through the local linear part of the WCS."""
    for source in sources:
        x, y = source.getX(), source.getY()
        source["coord_ra"], source["coord_dec"] = wcs.pixelToSkyArray(x, y)
        jacobian = np.empty((2, 2))
        for k, (dx, dy) in enumerate(((0.5, 0.0), (0.0, 0.5))):
            high, low = wcs.pixelToSkyArray(x + dx, y + dy), wcs.pixelToSkyArray(x - dx, y - dy)
            jacobian[:, k] = np.subtract(high, low)
        errors = np.diag([source["slot_Centroid_xErr"] ** 2, source["slot_Centroid_yErr"] ** 2])
        covariance = jacobian @ errors @ jacobian.T
        source["coord_raErr"], source["coord_decErr"] = np.sqrt(np.diag(covariance))
        source["coord_ra_dec_Cov"] = covariance[0, 1]


class ExposureCatalogRow:
    def __init__(self, psf, apCorrMap):
        self._psf, self._ap = psf, apCorrMap

    def getPsf(self):
        return self._psf

    def getApCorrMap(self):
        return self._ap


class ExposureCatalog(dict):
    """`lsst.afw.table.ExposureCatalog`, by detector number."""

    def find(self, number):
        return self.get(number)


# ------------------------------------------------------------------------------------------------- install

_MODULES = {
    "lsst.geom": (Point2D, Point2I, Extent2D, Extent2I, IntervalI, Box2I, Box2D),
    "lsst.afw": (),
    "lsst.afw.geom": (SkyWcs, Span, SpanSet),
    "lsst.afw.image": (
        Image,
        MaskedImageF,
        ImageF,
        ImageD,
        Mask,
        MaskedImage,
        ExposureF,
        FilterLabel,
        PhotoCalib,
        VisitInfo,
        ApCorrMap,
    ),
    "lsst.afw.math": (
        Chebyshev1Function2D,
        FixedKernel,
        LinearCombinationKernel,
        BackgroundList,
        BackgroundMI,
        Interpolate,
        UndersampleStyle,
        ApproximateControl,
    ),
    "lsst.afw.detection": (Psf, GaussianPsf, Footprint, InvalidPsfError),
    "lsst.afw.table": (
        Schema,
        SourceTable,
        SourceCatalog,
        SourceRecord,
        IdFactory,
        ExposureCatalog,
        updateSourceCoords,
    ),
    "lsst.meas": (),
    "lsst.meas.algorithms": (KernelPsf,),
    "lsst.daf.base": (PropertyList,),
    "lsst.pex.exceptions": (InvalidParameterError, RangeError),
}


@contextmanager
def install():
    """Let imports of the stack find these classes within a ``with`` block."""
    Mask.reset()
    before = {name: sys.modules.get(name) for name in _MODULES}
    parents = []
    try:
        for name, classes in _MODULES.items():
            module = types.ModuleType(name)
            module.__path__ = []
            for item in classes:
                setattr(module, item.__name__, item)
            sys.modules[name] = module
            parent, _, child = name.rpartition(".")
            importlib.import_module(parent)
            parents.append((sys.modules[parent], child, getattr(sys.modules[parent], child, None)))
            setattr(sys.modules[parent], child, module)
        sys.modules["lsst.pex.exceptions"].Exception = PexException
        yield
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
        for parent, child, old in reversed(parents):
            if old is None:
                delattr(parent, child)
            else:
                setattr(parent, child, old)
