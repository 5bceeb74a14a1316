"""The registry of measurement plug-ins, and how a plug-in of one's own joins."""

import numpy as np
import pytest
from astropy.table import Column
from lsst.pex.config import FieldValidationError, RangeField
from test_measure_task import as_detections, lattice
from white_differences import ERROR, make_white

from lsst.twinkles.diffim.tasks.measurement import MeasurementConfig, MeasurementTask
from lsst.twinkles.diffim.tasks.plugins import (
    MeasurementPlugin,
    MeasurementPluginConfig,
    measurementPlugins,
)
from lsst.twinkles.diffim.tasks.plugins.base import register_plugin

SHAPE = (60, 180)


class BrightConfig(MeasurementPluginConfig):
    limit = RangeField[float](doc="Least significance.", default=20.0, min=0.0)


class BrightPlugin(MeasurementPlugin):
    """Uses a column of another plug-in and the fits."""

    ConfigClass = BrightConfig
    order = 5.0

    def measure(self, inputs):
        bright = np.abs(inputs.fits.flux / inputs.fits.flux_error) > self.config.limit
        assert "ixx" in inputs.columns
        return {"isBright": Column(bright, description="Bright")}


@pytest.fixture
def bright():
    register_plugin("test_bright")(BrightPlugin)
    yield "test_bright"
    measurementPlugins._dict.pop("test_bright")


def measure(config):
    sources = lattice()[:4]
    return sources, MeasurementTask(config=config).run(
        *make_white(SHAPE, sources), as_detections(sources)
    ).diaSources


def test_a_plugin_of_ones_own_is_configured_and_run(bright):
    config = MeasurementConfig()
    config.plugins.names = ["shape", bright]
    config.plugins[bright].limit = 30.0
    sources, table = measure(config)
    np.testing.assert_array_equal(table["isBright"], np.abs(sources[:, 2]) > 30.0 * ERROR)
    assert "scienceFlux" not in table.colnames and "isDipole" not in table.colnames


def test_plugins_run_in_their_order_whatever_the_order_of_their_names(bright):
    config = MeasurementConfig()
    config.plugins.names = [bright, "shape"]
    assert "isBright" in measure(config)[1].colnames


def test_an_unknown_plugin_is_refused():
    config = MeasurementConfig()
    with pytest.raises(FieldValidationError, match="no_such_plugin"):
        config.plugins.names = ["no_such_plugin"]


def test_without_direct_images_nothing_asks_for_them():
    config = MeasurementConfig()
    config.plugins.names = ["pixelFlags", "apertureFlux", "shape", "trail"]
    sources = lattice()[:4]
    difference, _, _ = make_white(SHAPE, sources)
    table = MeasurementTask(config=config).run(difference, None, None, as_detections(sources)).diaSources
    assert len(table) == 4


@pytest.mark.parametrize(
    ("switch", "column"), [("doForcedMeasurement", "scienceFlux"), ("doDipoleFitting", "isDipole")]
)
def test_switches_of_plugins(switch, column):
    assert column in measure(MeasurementConfig())[1].colnames
    assert column not in measure(MeasurementConfig(**{switch: False}))[1].colnames


def test_aperture_correction_is_what_the_psf_has_beyond():
    table, raw = (measure(MeasurementConfig(doApCorr=on))[1] for on in (True, False))
    # Of a Gaussian of width 2 pixels a share of exp(-18) lies beyond 12 pixels.
    np.testing.assert_allclose(table["apFlux"], raw["apFlux"], rtol=1e-5)
    config = MeasurementConfig()
    config.plugins["apertureFlux"].radius = 3.0
    corrected = measure(config)[1]
    config.doApCorr = False
    uncorrected = measure(config)[1]
    inside = 1 - np.exp(-(3.0**2) / (2 * 2.0**2))
    np.testing.assert_allclose(uncorrected["apFlux"] / corrected["apFlux"], inside, rtol=0.02)


def test_names_are_those_of_the_registry():
    assert {"pixelFlags", "forcedFluxes", "apertureFlux", "shape", "dipole", "trail"} <= set(
        measurementPlugins
    )
