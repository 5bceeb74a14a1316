"""The commands on exposures of the LSST stack: they know them by themselves, and write that layout."""

import numpy as np
import pytest
from afw_files import make_file
from lsst.daf.butler import Butler
from lsst.images import DifferenceImage
from small_exposures import draw_stars
from small_pairs import make_pair

from lsst.twinkles.diffim.adapters import read_afw_exposure
from lsst.twinkles.diffim.adapters.afw.write import write_afw_exposure
from lsst.twinkles.diffim.cli.ingest import main as ingest
from lsst.twinkles.diffim.cli.make_repo import main as make_repo
from lsst.twinkles.diffim.cli.subtract_exposures import main as subtract


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same pair in both layouts."""
    folder = tmp_path_factory.mktemp("pair")
    pair = make_pair(n_transients=4, shape=(220, 240))
    for role, exposure in (("science", pair.science), ("template", pair.template)):
        exposure.write(str(folder / f"{role}.fits"))
        write_afw_exposure(exposure, folder / f"{role}-afw.fits")
    return folder


def test_differences_are_the_same_in_both_layouts(files, tmp_path):
    for kind, options in (("", []), ("-afw", ["--layout", "afw"])):
        words = [str(files / f"{role}{kind}.fits") for role in ("science", "template")]
        assert subtract([*words, "--output", str(tmp_path / f"out{kind}"), *options]) == 0
    images = DifferenceImage.read(str(tmp_path / "out" / "difference.fits"))
    stack = read_afw_exposure(tmp_path / "out-afw" / "difference.fits")
    scatter = float(np.sqrt(np.nanmedian(images.variance.array)))
    np.testing.assert_allclose(stack.image.array, images.image.array, atol=1e-3 * scatter)
    np.testing.assert_allclose(stack.variance.array, images.variance.array, rtol=1e-4)
    for plane in images.mask.schema.names:
        assert np.array_equal(stack.mask.get(plane), images.mask.get(plane)), plane
    x, y = 100.0, 120.0
    expected = images.psf.compute_kernel_image(x=x, y=y).array
    image = stack.psf.compute_kernel_image(x=x, y=y).array
    np.testing.assert_allclose(image, expected, atol=1e-3 * expected.max())


def test_ingested_exposure_has_the_psf_of_the_file(tmp_path):
    """lsst.images cannot write a kernel PSF: in the repository is a model that it can, and the same."""
    path = make_file(tmp_path / "a.fits")
    repo = str(tmp_path / "repo")
    assert make_repo([repo]) == 0
    assert ingest([repo, str(path), "--visit", "9", "--band", "r"]) == 0
    with Butler.from_config(repo, collections="TwinklesCam/calexp") as butler:
        (ref,) = butler.query_datasets("calexp")
        stored = butler.get(ref)
    exposure = read_afw_exposure(path)
    expected = exposure.psf.compute_kernel_image(x=30.0, y=30.0).array
    image = stored.psf.compute_kernel_image(x=30.0, y=30.0).array
    np.testing.assert_allclose(image, expected, atol=1e-4 * expected.max())
    np.testing.assert_array_equal(stored.image.array, exposure.image.array)


def test_psf_option_of_the_commands(tmp_path, capsys):
    """A pickled PSF is refused with the option that helps, and with that option the file is taken."""
    from afw_files import put_pickle

    positions = [(20 + 30 * i, 20 + 30 * j) for i in range(5) for j in range(5)]
    image = draw_stars((170, 170), positions, sigma=1.7, flux=20000.0)
    image += np.random.default_rng(1).normal(0, 10, image.shape)
    path = make_file(tmp_path / "a.fits", image=image, PSF=put_pickle)
    repo = str(tmp_path / "repo")
    assert make_repo([repo]) == 0
    words = [repo, str(path), "--visit", "9", "--band", "r"]
    assert ingest(words) == 1
    assert "1 failed" in capsys.readouterr().out
    assert ingest([*words, "--psf", "stars"]) == 0
