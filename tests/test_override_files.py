"""Override files: stand-ins for the stack while they are read, errors that say where."""

import sys
from types import ModuleType

import pytest
from lsst.pex.config import Config, ConfigChoiceField, ConfigField, ConfigurableField, Field, ListField
from lsst.pipe.base import Task

from lsst.twinkles.diffim.cli.gen2_parser import ConfigOverride
from lsst.twinkles.diffim.cli.override_files import (
    ConfigOverrideError,
    apply_overrides,
    load_override_file,
    set_config_value,
)
from lsst.twinkles.diffim.cli.stack_names import REFUSED, STAND_INS, resolve_stack_names


class InnerConfig(Config):
    number = Field[int](doc="A number.", default=1)
    ratio = Field[float](doc="A ratio.", default=0.5, optional=True)
    text = Field[str](doc="A text.", default="a")
    flag = Field[bool](doc="A flag.", default=False)
    planes = ListField[str](doc="Names.", default=["BAD"])


class InnerTask(Task):
    ConfigClass = InnerConfig
    _DefaultName = "inner"


class OuterConfig(Config):
    inner = ConfigField(doc="Plain.", dtype=InnerConfig)
    stage = ConfigurableField(doc="A stage.", target=InnerTask)
    kernel = ConfigChoiceField(doc="A choice.", typemap={"AL": InnerConfig, "DF": InnerConfig}, default="AL")
    number = Field[int](doc="A number.", default=1)


@pytest.fixture
def load(tmp_path):
    def function(text, config=None):
        path = tmp_path / "override.py"
        path.write_text(text)
        config = OuterConfig() if config is None else config
        load_override_file(config, path)
        return config

    return function


# Values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("number", "5", 5),
        ("inner.number", "-3", -3),
        ("inner.ratio", "2", 2.0),
        ("inner.ratio", "None", None),
        ("inner.text", "5", "5"),
        ("inner.text", "None", "None"),
        ("inner.flag", "True", True),
        ("stage.planes", "['A', 'B']", ["A", "B"]),
        ("stage.number", "7", 7),
        ("stage.planes", "BAD", ["BAD"]),
        ("kernel.name", "DF", "DF"),
    ],
)
def test_text_is_tried_first_then_a_literal(name, text, value):
    config = OuterConfig()
    set_config_value(config, name, text)
    node = config
    for part in name.split("."):
        node = getattr(node, part)
    assert (list(node) if isinstance(value, list) else node) == value


def test_fields_of_a_choice_are_those_of_what_is_chosen():
    config = OuterConfig()
    set_config_value(config, "kernel.number", "2")
    set_config_value(config, "kernel.name", "DF")
    set_config_value(config, "kernel.number", "3")
    assert (config.kernel["AL"].number, config.kernel["DF"].number) == (2, 3)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("nosuch", "1", "no config field: nosuch"),
        ("inner.numbr", "1", r"no config field: inner.numbr \(inner has no 'numbr'\); did you mean number\?"),
        ("nosuch.number", "1", "no config field: nosuch.number"),
        ("number.x", "1", "no config field: number.x"),
        ("stage.nosuch", "1", "no config field: stage.nosuch"),
        ("save", "1", "no config field: save"),
        ("number", "five", "cannot set config.number to 'five'"),
        ("number", "[1]", r"cannot set config.number to \[1\]"),
        ("kernel.name", "XX", "cannot set config.kernel.name"),
        ("number", "__import__('os').getpid()", "cannot set config.number"),
    ],
)
def test_wrong_values_are_named(name, text, message):
    config = OuterConfig()
    with pytest.raises(ConfigOverrideError, match=message):
        set_config_value(config, name, text)
    assert config.toDict() == OuterConfig().toDict()


def test_overrides_apply_from_left_to_right(tmp_path):
    path = tmp_path / "five.py"
    path.write_text("config.number = 5\nconfig.inner.number = 5\n")
    config = OuterConfig()
    overrides = [ConfigOverride("value", "number", "2"), ConfigOverride("file", str(path))]
    overrides.append(ConfigOverride("value", "inner.number", "9"))
    apply_overrides(config, overrides)
    assert (config.number, config.inner.number) == (5, 9)


# Files ----------------------------------------------------------------------------------------


def test_file_knows_its_own_path_and_loads_neighbours(tmp_path, load):
    (tmp_path / "other.py").write_text("config.inner.number = 11\n")
    config = load("import os\nconfig.inner.text = os.path.basename(__file__)\nconfig.load('other.py')\n")
    assert (config.inner.text, config.inner.number) == ("override.py", 11)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config.number = 1\nconfig.nosuch = 2\n", r"override\.py, line 2: .*nosuch"),
        ("\n\nconfig.number = 'x'\n", r"override\.py, line 3: FieldValidationError"),
        ("config.number = = 1\n", r"override\.py, line 1: SyntaxError"),
        ("1 / 0\n", r"override\.py, line 1: ZeroDivisionError"),
        ("import lsst.nowhere\n", r"override\.py, line 1: .*stands in for: lsst\.ip\.diffim"),
        ("import nowhere_at_all\n", r"override\.py, line 1: No module named 'nowhere_at_all'"),
    ],
)
def test_errors_carry_file_and_line(load, text, message):
    with pytest.raises(ConfigOverrideError, match=message):
        load(text)


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigOverrideError, match=r"gone\.py"):
        load_override_file(OuterConfig(), tmp_path / "gone.py")


# Stand-ins ------------------------------------------------------------------------------------


NAMES = [(module, name) for module, names in STAND_INS.items() for name in names]


@pytest.fixture
def unchanged_modules():
    """Check that the machinery of imports is left as it was found."""
    lsst = sys.modules["lsst"]
    before = {name for name in sys.modules if name in STAND_INS}
    finders, attributes = list(sys.meta_path), {name for name in vars(lsst) if f"lsst.{name}" in STAND_INS}
    yield
    assert {name for name in sys.modules if name in STAND_INS} == before
    assert list(sys.meta_path) == finders
    assert {name for name in vars(lsst) if f"lsst.{name}" in STAND_INS} == attributes


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_every_name_leads_to_one_of_our_classes(load, unchanged_modules, module, name):
    config = load(f"from {module} import {name}\nconfig.inner.text = {name}.__module__\n")
    assert config.inner.text.startswith("lsst.twinkles.diffim.tasks.")


@pytest.mark.parametrize(
    "text",
    [
        "import lsst.ip.diffim.getTemplate\nX = lsst.ip.diffim.getTemplate.GetCalexpAsTemplateTask\n",
        "from lsst.ip.diffim import getTemplate\nX = getTemplate.GetCalexpAsTemplateTask\n",
        "import lsst.ip.diffim.getTemplate as g\nX = g.GetCalexpAsTemplateTask\n",
        "from lsst.ip import diffim\nX = diffim.GetCalexpAsTemplateTask\n",
    ],
)
def test_all_spellings_of_an_import(load, unchanged_modules, text):
    assert load(text + "config.inner.text = X.__name__\n").inner.text == "GetCalexpAsTemplateTask"


@pytest.mark.parametrize("name", ["GetCoaddAsTemplateTask", "DipoleFitTask"])
def test_what_is_not_built_says_so(load, unchanged_modules, name):
    with pytest.raises(ConfigOverrideError, match=REFUSED[name].split(":")[0]):
        load(f"from lsst.ip.diffim.getTemplate import {name}\n")


def test_unknown_name_lists_what_is_stood_in_for(load, unchanged_modules):
    with pytest.raises(ConfigOverrideError) as caught:
        load("\nfrom lsst.ip.diffim.getTemplate import Nonsense\n")
    assert "override.py, line 2: cannot import name 'Nonsense'" in str(caught.value)
    assert "GetCalexpAsTemplateTask" in str(caught.value)
    assert "ImagePsfMatchTask" in str(caught.value)


def test_modules_are_restored_after_an_error(load, unchanged_modules):
    with pytest.raises(ConfigOverrideError):
        load("import lsst.ip.diffim\nraise RuntimeError('stop')\n")


def test_outside_of_a_file_the_stack_is_not_there(unchanged_modules):
    with resolve_stack_names():
        import lsst.ip.diffim
    with pytest.raises(ImportError):
        import lsst.ip.diffim.getTemplate  # noqa: F401


def test_a_loaded_module_of_the_stack_keeps_its_own_names(load, monkeypatch):
    for name in ("lsst.ip", "lsst.ip.diffim", "lsst.ip.diffim.getTemplate"):
        module = ModuleType(name)
        module.__path__ = []
        monkeypatch.setitem(sys.modules, name, module)
    real = sys.modules["lsst.ip.diffim.getTemplate"]
    real.GetCalexpAsTemplateConfig = InnerConfig
    config = load(
        "from lsst.ip.diffim.getTemplate import GetCalexpAsTemplateConfig, GetCalexpAsTemplateTask\n"
        "config.inner.text = GetCalexpAsTemplateConfig.__name__ + ' ' + GetCalexpAsTemplateTask.__module__\n"
    )
    assert config.inner.text == "InnerConfig lsst.twinkles.diffim.tasks.get_template"
    assert sys.modules["lsst.ip.diffim.getTemplate"] is real
    assert not hasattr(real, "GetCalexpAsTemplateTask")


def test_an_installed_module_of_the_stack_is_imported_and_completed(load, tmp_path, monkeypatch):
    package = tmp_path / "stack" / "lsst" / "ip" / "diffim"
    package.mkdir(parents=True)
    for directory in (package.parent, package):
        (directory / "__init__.py").write_text("")
    (package / "getTemplate.py").write_text("GetCalexpAsTemplateTask = int\nGetTemplateTask = float\n")
    import lsst

    monkeypatch.setattr(lsst, "__path__", [*lsst.__path__, str(tmp_path / "stack" / "lsst")])
    try:
        config = load(
            "from lsst.ip.diffim.getTemplate import GetCalexpAsTemplateTask, GetTemplateTask\n"
            "from lsst.ip.diffim.getTemplate import GetCalexpAsTemplateConfig as ours\n"
            "from lsst.ip.diffim.imagePsfMatch import ImagePsfMatchTask as gone\n"
            "classes = GetCalexpAsTemplateTask, GetTemplateTask, ours\n"
            "config.inner.text = ' '.join(map(lambda c: c.__module__, classes))\n"
            "config.stage.text = gone.__module__\n"
        )
        assert config.inner.text == "builtins builtins lsst.twinkles.diffim.tasks.get_template"
        assert config.stage.text == "lsst.twinkles.diffim.tasks.subtract"
        real = sys.modules["lsst.ip.diffim.getTemplate"]
        assert not hasattr(real, "GetCalexpAsTemplateConfig")
        assert type(real.__loader__).__name__ == "SourceFileLoader"
        assert "lsst.ip.diffim.imagePsfMatch" not in sys.modules
    finally:
        for name in [n for n in sys.modules if n == "lsst.ip" or n.startswith("lsst.ip.")]:
            del sys.modules[name]
        vars(lsst).pop("ip", None)


def test_the_package_brings_the_cookbooks_file(tmp_path, monkeypatch, caplog):
    """Where there is no checkout; a file of this name that is there comes first."""
    from lsst.twinkles.diffim.tasks.twinkles_image_difference import TwinklesImageDifferenceTask

    monkeypatch.chdir(tmp_path)
    config = TwinklesImageDifferenceTask.ConfigClass()
    config.doWriteMatchedExp = False
    with caplog.at_level("INFO"):
        load_override_file(config, "config/diffimconfig.py")
    assert config.doWriteMatchedExp and config.subtract.kernel.name == "AL"
    assert "config/diffimconfig.py is the one that the package brings" in caplog.text
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "diffimconfig.py").write_text("config.doWriteMatchedExp = False\n")
    load_override_file(config, "config/diffimconfig.py")
    assert not config.doWriteMatchedExp
    for name in ("config/nowhere.py", "diffimconfig.py", "config/x/rubinVisitImage.py"):
        with pytest.raises(ConfigOverrideError, match=name):
            load_override_file(config, name)
