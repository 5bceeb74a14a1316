"""The configuration interface: fields, refusals, override files, registry, retargeting."""

from pathlib import Path

import pytest
from lsst.pex.config import Config, FieldValidationError
from lsst.pipe.base import Struct, Task

from lsst.twinkles.diffim.cli.override_files import load_override_file
from lsst.twinkles.diffim.tasks.get_template import GetCalexpAsTemplateTask
from lsst.twinkles.diffim.tasks.image_difference import (
    NOT_BUILT_YET,
    ImageDifferenceConfig,
    ImageDifferenceTask,
)
from lsst.twinkles.diffim.tasks.registry import imageDifferenceRegistry
from lsst.twinkles.diffim.tasks.twinkles_image_difference import (
    TwinklesImageDifferenceConfig,
    TwinklesImageDifferenceTask,
)

CONFIG_DIRECTORY = Path(__file__).parents[1] / "config"

# Section A2 of the feature map: the last defaults of the retired task. Where they switch on a stage that is
# not there yet, the default is off.
RETIRED_DEFAULTS = {
    "doAddCalexpBackground": False,
    "doUseRegister": False,
    "doDebugRegister": False,
    "doSelectSources": False,
    "doSelectDcrCatalog": False,
    "doSelectVariableCatalog": False,
    "doSubtract": True,
    "doPreConvolve": False,
    "useScoreImageDetection": False,
    "doWriteScoreExp": False,
    "useGaussianForPreConvolution": False,
    "doScaleTemplateVariance": False,
    "doScaleDiffimVariance": True,
    "doDetection": True,
    "doDecorrelation": True,
    "doMerge": True,
    "doMatchSources": False,
    "doMeasurement": True,
    "doForcedMeasurement": True,
    "doWriteSubtractedExp": True,
    "doWriteWarpedExp": False,
    "doWriteMatchedExp": False,
    "doWriteSources": True,
    "doAddMetrics": False,
    "doApplyFinalizedPsf": False,
    "doSpatiallyVarying": False,
    "doSkySources": False,
    "coaddName": "deep",
    "convolveTemplate": True,
    "kernelSourcesFromRef": False,
    "controlStepSize": 5,
    "controlRandomSeed": 10,
    "templateSipOrder": 2,
    "growFootprint": 2,
    "diaSourceMatchRadius": 0.5,
    "requiredTemplateFraction": 0.1,
}
SUBTASKS = (
    "subtract",
    "decorrelate",
    "detection",
    "measurement",
    "forcedMeasurement",
    "getTemplate",
    "register",
    "refObjLoader",
    "astrometer",
    "sourceSelector",
    "scaleVariance",
    "skySources",
    "applyApCorr",
)


@pytest.mark.parametrize("name", RETIRED_DEFAULTS)
def test_defaults_of_the_retired_task(name):
    assert getattr(ImageDifferenceConfig(), name) == RETIRED_DEFAULTS[name]


def test_defaults_validate():
    for config in (ImageDifferenceConfig(), TwinklesImageDifferenceConfig()):
        config.validate()


@pytest.mark.parametrize("name", SUBTASKS)
def test_stages_can_be_retargeted(name):
    config = ImageDifferenceConfig()
    getattr(config, name).retarget(MarkerTask)
    assert getattr(config, name).target is MarkerTask
    assert getattr(config, name).depth == 3


@pytest.mark.parametrize(("name", "allowed", "stage"), NOT_BUILT_YET)
def test_what_is_not_built_refuses_to_be_switched(name, allowed, stage):
    config = ImageDifferenceConfig()
    setattr(config, name, not allowed)
    with pytest.raises(FieldValidationError) as caught:
        config.validate()
    assert f"{name}={not allowed} asks for {stage}" in str(caught.value)
    assert f"set it to {allowed}" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"doDetection": False}, "doMeasurement=True needs doDetection=True"),
        ({"doScaleTemplateVariance": True}, "exclude each other"),
    ],
)
def test_combinations_that_exclude_each_other(values, message):
    config = ImageDifferenceConfig()
    config.update(**values)
    with pytest.raises(FieldValidationError, match=message):
        config.validate()


def test_detection_and_measurement_can_both_be_off():
    config = ImageDifferenceConfig()
    config.doDetection = config.doMeasurement = False
    config.validate()
    assert not hasattr(ImageDifferenceTask(config), "detection")


# Override files -------------------------------------------------------------------------------


def test_the_cookbooks_file_is_the_cookbooks():
    expected = (
        "config.doUseRegister=False\n"
        "config.convolveTemplate=True\n"
        "config.doWriteMatchedExp=True\n"
        "config.doDecorrelation=True\n"
        "config.doMerge=True\n"
        "config.subtract.kernel.name='AL'\n"
        "from lsst.ip.diffim.getTemplate import GetCalexpAsTemplateTask\n"
        "config.getTemplate.retarget(GetCalexpAsTemplateTask)\n"
    )
    assert (CONFIG_DIRECTORY / "diffimconfig.py").read_text() == expected


@pytest.mark.parametrize("config_class", [ImageDifferenceConfig, TwinklesImageDifferenceConfig])
def test_the_cookbooks_file_loads(config_class):
    config = config_class()
    config.doWriteMatchedExp = config.doDecorrelation = False
    load_override_file(config, CONFIG_DIRECTORY / "diffimconfig.py")
    config.validate()
    assert config.doWriteMatchedExp and config.doDecorrelation
    assert config.subtract.kernel.name == "AL"
    assert config.getTemplate.target is GetCalexpAsTemplateTask


def test_saved_configuration_reads_back_without_the_stack(tmp_path):
    config = TwinklesImageDifferenceConfig()
    load_override_file(config, CONFIG_DIRECTORY / "diffimconfig.py")
    config.growFootprint = 7
    config.save(str(tmp_path / "saved.py"))
    assert "lsst.ip" not in (tmp_path / "saved.py").read_text()
    again = TwinklesImageDifferenceConfig()
    again.load(str(tmp_path / "saved.py"))
    assert again.toDict() == config.toDict()
    assert again.growFootprint == 7


def test_package_overrides_make_the_base_what_twinkles_is():
    config = ImageDifferenceConfig()
    load_override_file(config, CONFIG_DIRECTORY / "imageDifference.py")
    assert config.toDict() == TwinklesImageDifferenceConfig().toDict()
    assert config.subtract.mode == "auto"
    assert ImageDifferenceConfig().subtract.mode == "convolveTemplate"


# Passing down ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config_class", "convolve_template", "mode"),
    [
        (ImageDifferenceConfig, True, "convolveTemplate"),
        (ImageDifferenceConfig, False, "convolveScience"),
        (TwinklesImageDifferenceConfig, True, "auto"),
        (TwinklesImageDifferenceConfig, False, "convolveScience"),
    ],
)
def test_convolve_template_is_passed_down(config_class, convolve_template, mode):
    config = config_class()
    config.convolveTemplate = convolve_template
    config.freeze()
    assert ImageDifferenceTask(config).subtract.config.mode == mode


# Registry -------------------------------------------------------------------------------------


class MarkerConfig(Config):
    from lsst.pex.config import Field

    depth = Field[int](doc="A number.", default=3)


class MarkerTask(Task):
    ConfigClass = MarkerConfig
    _DefaultName = "marker"

    def run(self):
        return Struct(depth=self.config.depth)


class SurveyConfig(Config):
    difference = imageDifferenceRegistry.makeField("Difference imaging.", default="twinkles")


class SurveyTask(Task):
    ConfigClass = SurveyConfig
    _DefaultName = "survey"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.makeSubtask("difference")


def test_another_pipeline_names_the_task():
    assert type(SurveyTask().difference) is TwinklesImageDifferenceTask
    config = SurveyConfig()
    config.difference.name = "imageDifference"
    config.difference["imageDifference"].doMerge = False
    task = SurveyTask(config=config)
    assert type(task.difference) is ImageDifferenceTask
    assert not task.difference.config.doMerge
    assert task.difference.getFullName() == "survey.difference"


def test_another_pipeline_retargets_to_the_task():
    class OtherConfig(Config):
        stage = MarkerTask.makeField("A stage.")

    config = OtherConfig()
    config.stage.retarget(TwinklesImageDifferenceTask)
    config.stage.subtract.retarget(MarkerTask)
    task = config.stage.apply(name="stage")
    assert isinstance(task, TwinklesImageDifferenceTask)
    assert task.subtract.run().depth == 3


def test_default_name_is_that_of_the_override_files():
    assert TwinklesImageDifferenceTask._DefaultName == ImageDifferenceTask._DefaultName == "imageDifference"
