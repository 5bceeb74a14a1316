"""What the stack's `ExposureF.readFits` asks of a file, step by step; `StackError` where it would give up.

A second reader, independent of the package's own, written after lsst/afw of April 2026: ExposureFitsReader,
MaskedImageFitsReader, ImageBaseFitsReader, wcsUtils, VisitInfo, InputArchive, FitsSchemaInputMapper, and the
factory of each class that the package writes. It makes no objects but looks whether they could be made.
"""

import re

import numpy as np
from astropy.io import fits


class StackError(Exception):
    """The stack would not read this."""


def demand(condition, sentence):
    if not condition:
        raise StackError(sentence)


# Name and type of each field of a class.
SCHEMAS = {
    "FilterLabel": {"band_exists": "Flag", "band": "String", "physical_exists": "Flag", "physical": "String"},
    "SkyWcs": {"wcs": "ArrayB"},
    "PhotoCalib": {
        "calibrationMean": "D", "calibrationErr": "D", "isConstant": "Flag", "field": "I", "version": "I",
    },
    "ChebyshevBoundedField": {
        "order_x": "I", "bbox_min_x": "I", "bbox_min_y": "I", "bbox_max_x": "I", "bbox_max_y": "I",
        "coefficients": "ArrayD",
    },
    "GaussianPsf": {"dimensions_x": "I", "dimensions_y": "I", "sigma": "D"},
    "KernelPsf": {"kernel": "I", "averagePosition_x": "D", "averagePosition_y": "D"},
    "FixedKernel": {
        "dimensions_x": "I", "dimensions_y": "I", "center_x": "I", "center_y": "I", "image": "ArrayD",
    },
    "LinearCombinationKernel": {
        "dimensions_x": "I", "dimensions_y": "I", "center_x": "I", "center_y": "I",
        "spatialfunctions": "ArrayI", "components": "ArrayI",
    },
    "Chebyshev1Function2D": {
        "coefficients": "ArrayD", "min_x": "D", "min_y": "D", "max_x": "D", "max_y": "D",
    },
    "PolynomialFunction2D": {"coefficients": "ArrayD"},
}  # fmt: skip
SCHEMAS["PcaPsf"] = SCHEMAS["KernelPsf"]
# The factory is found by this module, unless a library that is always there has it ("").
MODULES = {
    "FilterLabel": "lsst.afw.image", "SkyWcs": "lsst.afw.geom", "PhotoCalib": "",
    "ChebyshevBoundedField": "lsst.afw.math", "GaussianPsf": "lsst.afw.detection",
    "KernelPsf": "lsst.meas.algorithms", "PcaPsf": "lsst.meas.algorithms", "FixedKernel": "lsst.afw.math",
    "LinearCombinationKernel": "lsst.afw.math", "Chebyshev1Function2D": "lsst.afw.math",
    "PolynomialFunction2D": "lsst.afw.math",
}  # fmt: skip
COMPONENTS = {"PSF": "Psf", "SKYWCS": "SkyWcs", "PHOTOCALIB": "PhotoCalib", "FILTER": "FilterLabel"}
INDEX = {
    "id": "I", "cat.archive": "I", "cat.persistable": "I", "row0": "I", "nrows": "I",
    "name": "String", "module": "String",
}  # fmt: skip


def read_as_the_stack(path):
    """Go through a file as the stack does; return its planes, first pixel, mask planes and components."""
    with fits.open(path, memmap=False) as hdus:
        primary = hdus[0].header
        demand(hdus[0].data is None, "the first HDU has pixels")
        planes = [_plane(hdus[i], name) for i, name in enumerate(("IMAGE", "MASK", "VARIANCE"), start=1)]
        demand(len({plane.shape for plane in planes}) == 1, "planes of different shapes")
        _check_metadata(primary)
        demand("INHERIT" in hdus[1].header, "no INHERIT: the primary header is not looked at")
        archive = Archive(hdus, _int(primary, "AR_HDU") - 1)
        numbers = {
            key.removeprefix("ARCHIVE_ID_"): _int(primary, key)
            for key in primary
            if key.startswith("ARCHIVE_ID_")
        }
        for name, kind in COMPONENTS.items():
            if name != "FILTER":  # by its generic number only
                demand(primary.get(f"{name}_ID", 0) == numbers.get(name, 0), f"{name}: two numbers")
            if number := numbers.get(name, 0):
                demand(archive.get(number)[0].endswith(kind), f"{name} is a {archive.get(number)[0]}")
        bits = {key[3:]: _int(hdus[2].header, key) for key in hdus[2].header if key.startswith("MP_")}
        demand(len(set(bits.values())) == len(bits) and max(bits.values()) < 32, "bits of mask planes")
        return {
            "planes": planes,
            "xy0": _first_pixel(hdus[1].header),
            "bits": bits,
            "components": {name: archive.get(number) for name, number in numbers.items()},
            "metadata": primary,
        }


def _plane(hdu, name):
    demand(hdu.header.get("EXTTYPE", "").rstrip() in ("", name), f"expected a plane {name}")
    bitpix = {"IMAGE": -32, "MASK": 32, "VARIANCE": -32}[name]
    demand(hdu.header["BITPIX"] == bitpix and hdu.header["NAXIS"] == 2, f"pixels of {name}")
    demand("BZERO" not in hdu.header, f"{name} is unsigned")
    return hdu.data


def _int(header, key):
    value = header[key]
    demand(isinstance(value, int) and not isinstance(value, bool), f"{key} is {value!r}")
    return value


def _first_pixel(header):
    """Return x0, y0: only where CRPIXnA are 1."""
    keys = [f"{word}{axis}A" for word in ("CRPIX", "CRVAL") for axis in "12"]
    if not all(key in header for key in keys) or header["CRPIX1A"] != 1 or header["CRPIX2A"] != 1:
        return 0, 0
    return round(header["CRVAL1A"]), round(header["CRVAL2A"])


def _check_metadata(header):
    """Check what is turned into a VisitInfo, and the version."""
    demand(_int(header, "EXPINFO_V") <= 2, "a later version")
    if "DATE-AVG" in header:
        demand(header.get("TIMESYS", "").rstrip() == "TAI", "DATE-AVG without TIMESYS = TAI")
        pattern = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?"
        demand(re.fullmatch(pattern, header["DATE-AVG"]), f"DATE-AVG is {header['DATE-AVG']}")
    demand("TIME-MID" not in header, "TIME-MID would be the date")
    rotations = ("UNKNOWN", "SKY", "HORIZON", "MOUNT")
    demand(header.get("ROTTYPE", "UNKNOWN") in rotations, "unknown kind of rotation")
    demand(isinstance(header.get("HAS-SIMULATED-CONTENT", False), bool), "HAS-SIMULATED-CONTENT")
    numbers = (
        "EXPTIME", "DARKTIME", "MJD-AVG-UT1", "AVG-ERA", "BORE-RA", "BORE-DEC", "BORE-AZ", "BORE-ALT",
        "BORE-AIRMASS", "BORE-ROTANG", "OBS-LONG", "OBS-LAT", "OBS-ELEV", "AIRTEMP", "AIRPRESS", "HUMIDITY",
        "FOCUSZ",
    )  # fmt: skip
    for key in numbers:
        demand(isinstance(header.get(key, 0.0), float | int), f"{key} is no number")
    for key in ("INSTRUMENT", "OBSTYPE", "PROGRAM", "REASON", "OBJECT"):
        demand(isinstance(header.get(key, ""), str), f"{key} is no text")
    for key in ("IDNUM", "EXPID"):
        demand(key not in header or _int(header, key) is not None, key)


class Archive:
    """The tables, and the objects that are put together of them."""

    def __init__(self, hdus, first):
        index = hdus[first]
        demand(index.header["EXTTYPE"] == "ARCHIVE_INDEX", f"HDU {first} is no index")
        demand(_fields(index) == INDEX, f"the index has the fields {_fields(index)}")
        self.tables = []
        for n in range(1, _int(index.header, "AR_NCAT")):
            hdu = hdus[first + n]
            demand(hdu.header["EXTTYPE"] == "ARCHIVE_DATA", f"table {n} is none")
            demand(_int(hdu.header, "AR_CATN") == n, f"table {n} is not at its place")
            self.tables.append(hdu)
        self.rows = sorted(index.data, key=lambda row: (row["id"], row["cat.persistable"]))
        self.objects = {}

    def get(self, number):
        """Return class and fields of an object."""
        if number not in self.objects:
            self.objects[number] = None  # stays so if it refers to itself
            self.objects[number] = self._make(number)
        demand(self.objects[number] is not None, f"object {number} refers to itself")
        return self.objects[number]

    def _make(self, number):
        (row,) = [row for row in self.rows if row["id"] == number]  # the classes here have one table
        name, module = row["name"].strip(), row["module"].strip()
        demand(name in SCHEMAS, f"nobody makes a {name}")
        demand(module == MODULES[name], f"the factory of {name} is not in {module!r}")
        hdu = self.tables[row["cat.archive"] - 1]
        demand(row["nrows"] == 1 and row["row0"] < len(hdu.data), f"rows of {name}")
        fields = _fields(hdu)
        demand(fields == SCHEMAS[name], f"{name} has the fields {fields}")
        values = _values(hdu, row["row0"])
        getattr(self, f"_check_{name}", lambda values: None)(values)
        return name, values

    def _check_SkyWcs(self, values):
        text = bytes(values["wcs"]).decode("ascii")
        demand(re.match(r"1 SkyWcs 0\s+Begin FrameSet", text), "the text of the coordinates")
        frames = set(re.findall(r'Domain = "(\w+)"', text))
        demand({"PIXELS", "IWC", "SKY"} <= frames, f"coordinates with the frames {frames}")

    def _check_PhotoCalib(self, values):
        demand(values["version"] >= 1, "a calibration in maggies")
        demand(self.get(values["field"])[0] == "ChebyshevBoundedField", "the field of the calibration")

    def _check_ChebyshevBoundedField(self, values):
        demand(len(values["coefficients"]) % (values["order_x"] + 1) == 0, "number of coefficients")

    def _check_GaussianPsf(self, values):
        demand(values["dimensions_x"] % 2 == 1, "dimensions have to be odd")

    def _check_KernelPsf(self, values):
        demand(self.get(values["kernel"])[0].endswith("Kernel"), "the kernel of the PSF")

    _check_PcaPsf = _check_KernelPsf

    def _check_FixedKernel(self, values):
        demand(len(values["image"]) == values["dimensions_x"] * values["dimensions_y"], "pixels of a kernel")

    def _check_LinearCombinationKernel(self, values):
        demand(len(values["components"]) == len(values["spatialfunctions"]), "functions of kernels")
        keys = ("dimensions_x", "dimensions_y", "center_x", "center_y")
        for number in values["components"]:
            name, part = self.get(number)
            demand(name == "FixedKernel" and all(part[k] == values[k] for k in keys), "a part of a kernel")
        sizes = set()
        for number in values["spatialfunctions"]:
            name, function = self.get(number)
            demand(name.endswith("Function2D"), "a function of a kernel")
            sizes.add(len(function["coefficients"]))
        demand(len(sizes) == 1, "functions of a kernel have the same number of parameters")
        n = sizes.pop()
        order = int((np.sqrt(8 * n + 1) - 3) / 2)
        demand((order + 1) * (order + 2) // 2 == n, "number of parameters of a polynomial")


def _fields(hdu):
    """Return the type of each field, as `FitsSchemaInputMapper` takes it from the header."""
    header, fields = hdu.header, {}
    demand(header.get("AFW_TABLE_VERSION") == 3 and "AFW_TYPE" not in header, "version of a table")
    flags = header.get("FLAGCOL", 0)
    for column in range(1, header["TFIELDS"] + 1):
        form, kind = header[f"TFORM{column}"].strip(), header.get(f"TCCLS{column}")
        if column == flags:
            count = int(re.fullmatch(r"(\d+)X", form)[1])
            names = [header[f"TFLAG{bit}"] for bit in range(1, count + 1)]
            fields |= dict.fromkeys(names, "Flag")
            continue
        match = re.fullmatch(r"(\d+)?([PQ])?([A-Z])\(?(\d*)\)?", form)
        demand(match, f"format {form}")
        size = 0 if match[2] else int(match[1] or 1)
        code = {"J": "I", "K": "L", "D": "D", "B": "B", "A": "A"}.get(match[3])
        demand(code, f"format {form}")
        is_array = size != 1 or kind == "Array"
        fields[header[f"TTYPE{column}"]] = "String" if code == "A" else f"Array{code}" if is_array else code
    return fields


def _values(hdu, row):
    """Return the values of a row by field; flags are not among them."""
    values, data = {}, hdu.data[int(row)]
    for name, kind in _fields(hdu).items():
        if kind.startswith("Array"):
            values[name] = np.atleast_1d(data[name])
        elif kind != "Flag":
            values[name] = data[name] if kind == "String" else data[name].item()
    return values
