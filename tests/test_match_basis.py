"""The Alard-Lupton basis: number, sums, widths and sizes that the stack's rules give."""

import json

import numpy as np
import pytest
from lsst.pex.config import FieldValidationError

from lsst.twinkles.diffim.algorithms.match.basis import choose_kernel_size, make_alard_lupton_basis
from lsst.twinkles.diffim.tasks.kernel import AlardLuptonKernelConfig, make_basis, make_settings

TO_FWHM = 2 * np.sqrt(2 * np.log(2))


def basis_for(fwhm_convolved, fwhm_target, **values):
    return make_basis(
        AlardLuptonKernelConfig(**values), fwhm_convolved=fwhm_convolved, fwhm_target=fwhm_target
    )


def test_twenty_seven_functions_of_which_only_the_first_has_a_sum():
    basis, _ = basis_for(2.8, 4.45)
    images = basis.images()
    assert len(basis) == 27 and images.shape == (27, 21, 21)
    sums = images.sum(axis=(1, 2))
    assert sums[0] == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(sums[1:], 0.0, atol=1e-12)
    # A constant first coefficient and 26 that vary linearly: 1 + 26 * 3, as the stack counts.
    assert np.linalg.matrix_rank(images.reshape(27, -1)) == 27


def test_functions_span_gaussians_times_polynomials():
    sigmas, degrees, size = np.array([0.8, 1.6]), (2, 1), 15
    images = make_alard_lupton_basis(sigmas, degrees, size).images().reshape(9, -1)
    v, u = np.mgrid[-7:8, -7:8].astype(float)
    for sigma, degree in zip(sigmas, degrees, strict=True):
        for p in range(degree + 1):
            for q in range(degree + 1 - p):
                wanted = (u**p * v**q * np.exp(-(u**2 + v**2) / (2 * sigma**2))).ravel()
                found = images.T @ np.linalg.lstsq(images.T, wanted, rcond=None)[0]
                assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_first_function_is_the_narrowest_gaussian():
    basis = make_alard_lupton_basis(np.array([0.9, 2.0]), (1, 0), 11)
    v, u = np.mgrid[-5:6, -5:6]
    gaussian = np.exp(-(u**2 + v**2) / (2 * 0.9**2))
    np.testing.assert_allclose(basis.images()[0], gaussian / gaussian.sum(), atol=1e-7)


def test_rows_are_y_and_columns_are_x():
    # Function 1 is the one with the highest power along x (see `row`).
    basis = make_alard_lupton_basis(np.array([1.5]), (1,), 11)
    along_x, along_y = basis.images()[1:]
    np.testing.assert_allclose(along_x, along_y.T, atol=1e-12)
    v, u = np.mgrid[-5:6, -5:6]
    assert (along_x * u).sum() > 0.1 and abs((along_x * v).sum()) < 1e-8


@pytest.mark.parametrize(
    ("convolved", "target", "size", "widths"),
    [
        # The two examples worked out for Twinkles seeing: 0.56" against 0.89", and against 1.4" (0.2"/pixel).
        (2.8, 4.45, 21, (0.73, 1.47, 2.94)),
        (2.8, 7.0, 33, (1.36, 2.72, 5.45)),
    ],
)
def test_examples_of_seeing(convolved, target, size, widths):
    basis, mode = basis_for(convolved, target)
    assert mode == "convolution" and basis.size == size
    np.testing.assert_allclose(basis.sigmas, widths, atol=0.01)


def test_widths_follow_the_psfs():
    basis, mode = basis_for(2.0, 5.0)
    middle = np.sqrt(25 - 4) / TO_FWHM
    np.testing.assert_allclose(basis.sigmas, [middle / 2, middle, 2 * middle], rtol=1e-12)
    assert mode == "convolution"
    basis, mode = basis_for(5.0, 2.0)
    np.testing.assert_allclose(basis.sigmas, [middle / 2, middle, 2 * middle], rtol=1e-12)
    assert mode == "deconvolution"


def test_least_widths():
    # A narrower one of half the central width would be below 0.7: the central one is the first.
    middle = np.sqrt(4.5**2 - 3.2**2) / TO_FWHM
    np.testing.assert_allclose(basis_for(3.2, 4.5)[0].sigmas, [middle, 2 * middle, 4 * middle])
    np.testing.assert_allclose(basis_for(4.0, 4.01)[0].sigmas, [0.7, 1.4, 2.8])
    np.testing.assert_allclose(basis_for(4.01, 4.0)[0].sigmas, [0.4, 0.8, 1.6])


@pytest.mark.parametrize(("convolved", "target"), [(4.0, 4.0), (np.nan, 4.0), (4.0, np.nan)])
def test_equal_or_unknown_psfs_take_the_configured_widths(convolved, target):
    basis, mode = basis_for(convolved, target)
    np.testing.assert_array_equal(basis.sigmas, [0.7, 1.5, 3.0])
    assert mode == "config"


def test_widths_and_size_can_be_fixed():
    basis, mode = basis_for(2.0, 5.0, scaleByFwhm=False, kernelSize=25, alardSigGauss=[1.0, 2.0, 4.0])
    np.testing.assert_array_equal(basis.sigmas, [1.0, 2.0, 4.0])
    assert basis.size == 25 and mode == "config"


def test_kernel_size_is_odd_and_within_limits():
    for sigma in np.linspace(0.1, 12, 100):
        size = choose_kernel_size(np.array([sigma / 2, sigma]), scaling=6.0, smallest=21, largest=35)
        assert size % 2 == 1 and 21 <= size <= 35
        if 21 < size < 35:
            assert 6 * sigma - 1 <= size <= 6 * sigma + 1


@pytest.mark.parametrize("size", [10, 1])
def test_even_or_tiny_kernels_are_refused(size):
    with pytest.raises(ValueError, match=f"odd and at least 3, got {size}"):
        make_alard_lupton_basis(np.array([1.0]), (0,), size)


def test_one_degree_per_gaussian():
    with pytest.raises(ValueError, match="2 widths, 1 degrees"):
        make_alard_lupton_basis(np.array([1.0, 2.0]), (0,), 11)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kernelSize": 20}, "kernelSize must be odd, got 20"),
        ({"kernelSizeMin": 25, "kernelSizeMax": 23}, "kernelSizeMin 25 exceeds kernelSizeMax=23"),
        ({"alardNGauss": 2}, "alardDegGauss has 3 values for alardNGauss=2"),
        ({"alardSigGauss": [1.0]}, "alardSigGauss has 1 values for alardNGauss=3"),
    ],
)
def test_configurations_that_contradict_themselves(values, message):
    config = AlardLuptonKernelConfig(**values)
    with pytest.raises(FieldValidationError, match=message):
        config.validate()


def test_settings_follow_the_configuration():
    config = AlardLuptonKernelConfig()
    settings = make_settings(config, fwhm=4.5, min_sources=3)
    assert settings.kernel_orders == (0, 1, 2, 3) and settings.background_order == 2
    assert settings.stamp_half == 14 and settings.min_sources == 3
    config.doChooseSpatialOrder = False
    assert make_settings(config, fwhm=4.5, min_sources=3).kernel_orders == (1,)
    assert make_settings(config, fwhm=0.5, min_sources=3).stamp_half == 8
    assert make_settings(config, fwhm=50.0, min_sources=3).stamp_half == 40


def test_the_stack_s_own_values(shared_data):
    path = shared_data / "ip_diffim" / "basis_rules.json"
    if not path.exists():
        pytest.skip("needs ip_diffim/basis_rules.json in ../shared/data")
    cases = json.loads(path.read_text())
    assert cases
    for case in cases:
        # The template is the image that is convolved.
        basis, mode = basis_for(case["template_fwhm"], case["science_fwhm"])
        where = str(case)
        assert len(basis) == case["n_basis"], where
        assert basis.size == case["kernel_size"] == case["ALKernelSize"], where
        assert mode == case["ALBasisMode"], where
        assert len(basis.sigmas) == case["ALBasisNGauss"], where
        assert list(basis.degrees) == case["ALBasisDegGauss"], where
        np.testing.assert_allclose(basis.sigmas, case["ALBasisSigGauss"], rtol=1e-9, err_msg=where)
