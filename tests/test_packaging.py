"""What a person who installs the package gets: commands, modules, a wheel that leaves the namespace alone."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPTS = PROJECT["scripts"]
SOURCE = ROOT / "python" / "lsst" / "twinkles" / "diffim"

# The compiled packages of the stack, none of which is on PyPI.
CPP_STACK = ("afw", "geom", "daf.base", "ip.diffim", "ip.isr", "meas", "pex.exceptions", "cpputils", "base")


def run_python(code, *, path=ROOT / "python"):
    """Run code in a fresh interpreter; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_scripts_are_those_of_bin_src():
    assert sorted(SCRIPTS) == sorted(path.name for path in (ROOT / "bin.src").glob("*.py"))


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_script_in_bin_src_calls_the_same_function(name):
    module, _, function = SCRIPTS[name].partition(":")
    text = (ROOT / "bin.src" / name).read_text()
    assert text.startswith("#!/usr/bin/env python\n")  # what scons rewrites
    assert f"from {module} import {function}\n" in text


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_help_imports_nothing_that_takes_long(name):
    module, _, function = SCRIPTS[name].partition(":")
    heavy = ["numpy", "scipy", "astropy", "numba", "matplotlib", "galsim", "pandas", "sqlalchemy"]
    heavy += ["lsst.images", "lsst.pipe.base", "lsst.daf.butler", "lsst.pex.config"]
    printed = run_python(
        f"import sys, {module}\n"
        "try:\n"
        f"    {module}.{function}(['--help'])\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code\n"
        f"print('HEAVY', [name for name in {heavy} if name in sys.modules])"
    )
    assert printed.lower().startswith("usage: " + name.lower())
    assert printed.rstrip().endswith("HEAVY []")


def test_every_module_imports_without_the_compiled_stack():
    """Also where such a stack is installed: imports of its compiled packages are refused here."""
    modules = sorted(
        ".".join(path.relative_to(ROOT / "python").with_suffix("").parts).removesuffix(".__init__")
        for path in SOURCE.rglob("*.py")
        if "data" not in path.relative_to(SOURCE).parts  # override files
    )
    assert len(modules) > 50
    printed = run_python(
        "import importlib, json, sys, traceback\n"
        f"refused = tuple('lsst.' + name for name in {CPP_STACK})\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if any(name == r or name.startswith(r + '.') for r in refused):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "failed = {}\n"
        f"for name in {modules}:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except Exception as error:\n"
        "        failed[name] = repr(error)\n"
        "print(json.dumps(failed))"
    )
    assert json.loads(printed.splitlines()[-1]) == {}


def test_versions_agree():
    version = PROJECT["version"]
    # A tree that scons has built has a version of its own, after git's revision.
    if not (ROOT / "python/lsst/twinkles/diffim/version.py").exists():
        assert importlib.metadata.version("lsst-twinkles-diffim") == version
    latest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1]
    assert latest == version


def test_requirements_of_extras_are_in_test():
    """The one environment that make builds can run everything there is."""
    extras = PROJECT["optional-dependencies"]
    for name in set(extras) - {"test"}:
        assert set(extras[name]) <= set(extras["test"]), name


def read_lock(name):
    """Return versions and numbers of hashes of the pinned packages, by name."""
    entries = re.split(r"^(?=[A-Za-z0-9])", (ROOT / name).read_text(), flags=re.MULTILINE)[1:]
    found = [(re.match(r"([^=\s]+)==([^\s;]+)", entry), entry.count("--hash=sha256:")) for entry in entries]
    assert all(match for match, _ in found)
    return {canonicalize_name(match[1]): (match[2], n_hashes) for match, n_hashes in found}


LOCKS = {
    "requirements.lock": ("pipeline", "batch", "postgres"),
    "requirements-test.lock": tuple(PROJECT["optional-dependencies"]),
}


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_files_pin_what_is_asked_for(name):
    """With hashes, and without saying where the files are to be had."""
    assert "://" not in (ROOT / name).read_text()
    lock = read_lock(name)
    assert all(n_hashes > 0 for _, n_hashes in lock.values())
    extras = [PROJECT["optional-dependencies"][extra] for extra in LOCKS[name]]
    wanted = [Requirement(text) for texts in (PROJECT["dependencies"], *extras) for text in texts]
    for requirement in wanted:
        version, _ = lock[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, f"{requirement} and {version}: make lock"


def test_tests_run_with_what_is_installed_elsewhere():
    """The versions of the first file are those of the second; that has the build backend, too."""
    first, second = (read_lock(name) for name in LOCKS)
    assert {name: version for name, (version, _) in first.items()}.items() <= {
        name: version for name, (version, _) in second.items()
    }.items()
    assert "setuptools" in second


def test_licences_are_those_of_the_lock_file():
    page = (ROOT / "doc" / "licences.md").read_text()
    rows = re.findall(r"^\| ([\w.-]+) \| ([\w.+!-]+) \| ([^|]+) \|$", page, flags=re.MULTILINE)
    assert {canonicalize_name(name): version for name, version, _ in rows if name != "package"} == {
        name: version for name, (version, _) in read_lock("requirements-test.lock").items()
    }
    assert not [name for name, _, licence in rows if "not declared" in licence or "not installed" in licence]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Wheel of a copy of the sources."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("config", "pipelines"):  # to which links of the package lead
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    ignored = shutil.ignore_patterns("*.egg-info", "*.dist-info", "__pycache__")
    shutil.copytree(ROOT / "python", copy / "python", ignore=ignored, symlinks=True)
    code = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    command = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (path,) = copy.glob("*.whl")
    return path


def test_wheel_leaves_the_shared_namespace_alone(wheel):
    """Uninstalling a wheel that has lsst/__init__.py breaks every other lsst package."""
    names = zipfile.ZipFile(wheel).namelist()
    assert "lsst/__init__.py" not in names
    assert all(name.startswith(("lsst/twinkles/", "lsst_twinkles_diffim-")) for name in names)


def test_wheel_has_every_source_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    python = ROOT / "python"
    sources = {str(path.relative_to(python)) for path in SOURCE.rglob("*.py") if path.name != "version.py"}
    assert sources <= names
    entries = next(name for name in names if name.endswith("entry_points.txt"))
    text = zipfile.ZipFile(wheel).read(entries).decode()
    assert all(f"{name} = {target}" in text for name, target in SCRIPTS.items())


@pytest.mark.parametrize("folder", ["config", "pipelines"])
def test_wheel_has_override_files_and_pipelines(wheel, folder):
    """Each of the checkout, as it is there."""
    with zipfile.ZipFile(wheel) as archive:
        for path in (ROOT / folder).glob("*.*"):
            content = archive.read(f"lsst/twinkles/diffim/data/{folder}/{path.name}")
            assert content == path.read_bytes(), path.name


def test_pipelines_are_resources():
    from lsst.pipe.base import Pipeline

    place = "resource://lsst.twinkles.diffim/data/pipelines"
    pipelines = [path.name for path in (ROOT / "pipelines").glob("*.yaml")]
    assert len(pipelines) == 7
    for name in set(pipelines) - {"ApPipeTwinklesDiffim.yaml"}:  # which imports ap_pipe's
        assert Pipeline.from_uri(f"{place}/{name}").task_labels, name


def test_wheel_imports_beside_the_other_packages(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    printed = run_python(
        "import lsst.twinkles.diffim.adapters.masks as ours, lsst.images as theirs\n"
        "print(ours.__file__)\nprint(theirs.__file__)",
        path=tmp_path,
    ).split()
    assert printed[0].startswith(str(tmp_path)) and not printed[1].startswith(str(tmp_path))


def copy_checkout(target):
    """Copy the checkout without what was made in it; links stay links."""
    ignored = shutil.ignore_patterns(
        ".git",
        ".venv",
        ".cache",
        "bin",
        "build",
        "dist",
        "demo",
        "quality",
        "real",
        ".*_cache",
        "__pycache__",
    )
    shutil.copytree(ROOT, target, ignore=ignored, symlinks=True)


def read_eups_table():
    """Return the commands of the table file: name and arguments."""
    lines = (ROOT / "ups" / "twinkles_diffim.table").read_text().splitlines()
    commands = [line.split("#")[0].strip() for line in lines]
    matches = [re.fullmatch(r"(\w+)\(([^()]*)\)", command) for command in commands if command]
    assert all(matches), commands
    return [(match[1], [part.strip() for part in match[2].split(",")]) for match in matches]


def test_eups_table_asks_for_nothing_that_pip_cannot_provide():
    assert {name for name, _ in read_eups_table()} == {"setupOptional", "envPrepend"}


def test_eups_table_sets_up_the_package():
    """The environment that `setup -r .` makes, without EUPS."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    for name, arguments in read_eups_table():
        if name == "envPrepend":
            variable, value = arguments
            value = value.replace("${PRODUCT_DIR}", str(ROOT))
            environment[variable] = os.pathsep.join(filter(None, (value, environment.get(variable))))
    assert environment["PATH"].split(os.pathsep)[0] == str(ROOT / "bin")
    code = "import lsst.twinkles.diffim as package; print(package.__file__)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd="/", capture_output=True, text=True, env=environment, check=True)
    assert result.stdout.strip() == str(SOURCE / "__init__.py")


@pytest.mark.slow
def test_scons_builds_commands_and_version_and_runs_tests(tmp_path):
    """Without arguments and without EUPS, in a checkout with a few of the tests."""
    pytest.importorskip("lsst.sconsUtils", reason="needs lsst-sconsutils")
    scons = Path(sys.executable).with_name("scons")
    copy = tmp_path / "twinkles_diffim"
    copy_checkout(copy)
    for path in (copy / "tests").glob("test_*.py"):
        if path.name not in ("test_ids.py", "test_layering.py"):
            path.unlink()
    # The version comes from git.
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    for words in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "Start"]):
        subprocess.run(["git", *words], cwd=copy, check=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(copy / "python")
    environment["PATH"] = os.pathsep.join((str(scons.parent), environment["PATH"]))
    result = subprocess.run([scons], cwd=copy, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert sorted(path.name for path in (copy / "bin").iterdir()) == sorted(SCRIPTS)
    assert "__version__" in (copy / "python/lsst/twinkles/diffim/version.py").read_text()
    command = [copy / "bin" / "subtractExposures.py", "--help"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0 and "SCIENCE TEMPLATE" in answer.stdout
    # That the tests were run, and by it: one that fails makes scons fail.
    (copy / "tests" / "test_that_fails.py").write_text("def test_it():\n    assert False, 'of purpose'\n")
    result = subprocess.run([scons], cwd=copy, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode != 0 and "of purpose" in result.stdout + result.stderr
