"""Files in the layout of the LSST stack: whatever writes them, its reader finds what it asks for."""

import astropy.units as u
import numpy as np
import pytest
from afw_files import STACK_FILES
from astropy.io import fits
from command_runs import command, pair_words
from lsst.daf.butler import Butler, Config, DatasetType
from lsst.images import DifferenceImage, VisitImage
from repositories import make_repository
from small_exposures import make_exposure
from stack_reader import StackError, read_as_the_stack

from lsst.twinkles.diffim.adapters.afw.write import write_afw_exposure

_FORMATTER = "lsst.twinkles.diffim.pipeline.afw_formatter.AfwExposureFormatter"
_SOURCE = {"instrument": "TwinklesCam", "detector": 94}


@pytest.mark.parametrize("name", [name for name in STACK_FILES if name in ("kernel", "lincomb", "pca")])
def test_the_reader_of_these_tests_takes_files_of_the_stack(shared_data, name):
    """It asks for no more than the stack does: what the stack has written passes."""
    found = read_as_the_stack(shared_data / "afw" / f"{name}.fits")
    assert set(found["components"]) == {"FILTER", "PHOTOCALIB", "SKYWCS", "PSF"}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "a.fits"
    write_afw_exposure(make_exposure(np.zeros((30, 40)), visit=42, start=(7, -3)), path)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda hdus: hdus[0].header.set("AR_HDU", 6),
        lambda hdus: hdus[0].header.set("HIERARCH EXPINFO_V", 3),
        lambda hdus: hdus[0].header.set("DATE-AVG", "2022-01-01T03:16:52Z"),
        lambda hdus: hdus[0].header.remove("PSF_ID"),
        lambda hdus: hdus[1].header.remove("INHERIT"),
        lambda hdus: hdus[2].header.set("EXTTYPE", "VARIANCE"),
        lambda hdus: hdus[4].header.remove("TCCLS1") or hdus[4].header.set("TTYPE1", "ids"),
        lambda hdus: hdus[5].header.set("AR_CATN", 2),
        lambda hdus: hdus[-1].header.set("TTYPE3", "width"),
        lambda hdus: hdus.insert(2, hdus[3]),
    ],
)
def test_the_reader_of_these_tests_refuses_what_the_stack_refuses(good, tmp_path, change):
    with fits.open(good) as hdus:
        change(hdus)
        hdus.writeto(tmp_path / "b.fits", output_verify="silentfix")
    with pytest.raises(StackError):
        read_as_the_stack(tmp_path / "b.fits")


def test_exposure(good):
    found = read_as_the_stack(good)
    assert found["xy0"] == (-3, 7)
    assert found["components"]["FILTER"][1]["band"].strip() == "r"
    assert found["components"]["PSF"][0] == "GaussianPsf"
    assert found["metadata"]["IDNUM"] == 42
    assert {"BAD", "SAT", "CR", "NO_DATA", "DETECTED_NEGATIVE"} <= set(found["bits"])


def test_metadata_of_another_origin_does_not_pass_for_the_stacks(tmp_path):
    """A time system that is not TAI would keep the stack from reading the file at all."""
    exposure = make_exposure(np.zeros((30, 40)), visit=42)
    foreign = {"TIMESYS": "UTC", "TIME-MID": "12:00", "AR_HDU": 2, "PSF_ID": 9, "IDNUM": "x", "EXPID": "y"}
    exposure.metadata.update(foreign | {"HUMIDITY": "wet", "ARCHIVE_ID_SPAM": 3, "gain": 1.5})
    write_afw_exposure(exposure, tmp_path / "a.fits")
    found = read_as_the_stack(tmp_path / "a.fits")
    assert found["metadata"]["IDNUM"] == 42 and found["metadata"]["gain"] == 1.5


def read_result(out, kind):
    """Return what the Butler gives for visit 230, and the file."""
    with Butler.from_config(out, collections="deepDiff") as butler:
        (ref,) = butler.query_datasets(f"deepDiff_{kind}", where="visit = 230", instrument="TwinklesCam")
        return butler.get(ref), butler.getURI(ref).ospath


def test_command_writes_what_the_stack_opens(tmp_path):
    """The same results in both layouts, the kernel excepted; the second run finds those of the first."""
    write = ["-c", "doWriteMatchedExp=True"]
    assert command(*pair_words(tmp_path / "images"), *write).status == 0
    words = [*pair_words(tmp_path / "afw"), *write, "--layout", "afw"]
    assert command(*words).status == 0
    for kind, cls in (("differenceExp", DifferenceImage), ("matchedExp", VisitImage)):
        expected, _ = read_result(tmp_path / "images", kind)
        exposure, path = read_result(tmp_path / "afw", kind)
        assert type(exposure) is cls
        image, _, variance = read_as_the_stack(path)["planes"]
        for array in (image, exposure.image.array):
            np.testing.assert_array_equal(array, expected.image.array)
        for array in (variance, exposure.variance.array):
            np.testing.assert_array_equal(array, expected.variance.array)
        for plane in expected.mask.schema.names:
            assert np.array_equal(exposure.mask.get(plane), expected.mask.get(plane)), plane
        here, there = (e.psf.compute_kernel_image(x=20.0, y=20.0).array for e in (exposure, expected))
        np.testing.assert_allclose(here, there, atol=1e-6 * there.max())
    header = fits.getheader(path)
    assert any(key.startswith("LSST BUTLER INPUT") for key in header)
    assert command(*words).lines("was done by an earlier run")


def test_another_layout_is_another_configuration(tmp_path):
    out = tmp_path / "out"
    assert command(*pair_words(out)).status == 0
    run = command(*pair_words(out), "--layout", "afw")
    assert run.status != 0 and run.lines("datasets.layout")
    assert command(*pair_words(out), "--layout", "tiff").status == 2


def test_any_butler_can_be_told_to_write_it(tmp_path):
    """As for pipelines: a line in the configuration of the datastore; components and cutouts as always."""
    make_repository(tmp_path / "in").close()
    config = Config({"datastore": {"formatters": {"VisitImage": _FORMATTER}}})
    Butler.makeRepo(tmp_path / "repo", config=config)
    with (
        Butler.from_config(tmp_path / "in") as source,
        Butler.from_config(tmp_path / "repo", writeable=True, run="r") as butler,
    ):
        refs = source.query_datasets("calexp", collections="TwinklesCam/calexp")
        butler.transfer_dimension_records_from(source, refs)
        kind = DatasetType(
            "exp", ["instrument", "visit", "detector"], "VisitImage", universe=butler.dimensions
        )
        butler.registry.registerDatasetType(kind)
        exposure = source.get(refs[0])
        ref = butler.put(exposure, "exp", refs[0].dataId)
        read_as_the_stack(butler.getURI(ref).ospath)
        np.testing.assert_array_equal(butler.get(ref).image.array, exposure.image.array)
        box = exposure.bbox.factory[3:10, 4:20]
        np.testing.assert_array_equal(
            butler.get(ref, parameters={"bbox": box}).variance.array, exposure[box].variance.array
        )
        np.testing.assert_array_equal(
            butler.get(ref.makeComponentRef("image"), parameters={"bbox": box}).array,
            exposure[box].image.array,
        )
        assert butler.get(ref.makeComponentRef("bbox")) == exposure.bbox
        assert butler.get(ref.makeComponentRef("obs_info")).visit_id == exposure.obs_info.visit_id
        assert butler.get(ref.makeComponentRef("unit")) == u.Unit(exposure.unit)
        sky = butler.get(ref.makeComponentRef("sky_projection"))
        assert (
            sky.pixel_to_sky(x=5.0, y=6.0).separation(exposure.sky_projection.pixel_to_sky(x=5.0, y=6.0))
            < 1e-6 * u.mas
        )
