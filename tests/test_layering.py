"""The table of layers in doc/architecture.md is true: every import of the package is one that it allows."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ("lsst", "twinkles", "diffim")
SOURCE = ROOT.joinpath("python", *PACKAGE)
MODULES = sorted(path for path in SOURCE.rglob("*.py") if "data" not in path.relative_to(SOURCE).parts)
SHORT_NAMES = {
    "pex_config": "lsst.pex.config",
    "pipe_base": "lsst.pipe.base",
    "daf_butler": "lsst.daf.butler",
}


def read_table():
    """Return the module prefixes that each layer may import, from the table; ``*_nb`` ones apart."""
    allowed, compiled = {}, set()
    text = (ROOT / "doc" / "architecture.md").read_text()
    for layer, cell in re.findall(r"^\| `(\w+)/[^`]*` \|[^|]*\|([^|]*)\|", text, flags=re.MULTILINE):
        names = []
        for word in cell.split(","):
            name = re.sub(r"\(.*\)", "", word).strip().strip("`")
            name = SHORT_NAMES.get(name, name)
            (compiled.add(name) if "_nb.py" in word else names.append(name))
        allowed[layer] = names
    return allowed, compiled


def imported_modules(path):
    """Yield the full names of what a module imports outside the standard library, with the line."""
    here = (*PACKAGE, *path.relative_to(SOURCE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level + 1])
            names = [".".join(filter(None, (base, node.module, alias.name))) for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] not in sys.stdlib_module_names:
                yield node.lineno, name


def starts_with(name, prefix):
    return name == prefix or name.startswith(prefix + ".")


def expand(prefix, layers):
    """Return a prefix of the table as the start of a full module name."""
    return ".".join((*PACKAGE, prefix)) if prefix.split(".")[0] in layers else prefix


def is_allowed(path, name, allowed, compiled):
    """Tell whether the table lets a module import another."""
    layer = path.relative_to(SOURCE).parts[0]
    own = ".".join((*PACKAGE, layer))
    prefixes = {own} | {expand(p, allowed) for p in allowed[layer]}
    if path.stem.endswith("_nb"):
        prefixes |= compiled
    if "everything above" in allowed[layer]:
        everything = [p for names in allowed.values() for p in names] + list(allowed)
        prefixes |= {expand(p, allowed) for p in everything}
    return any(starts_with(name, prefix) for prefix in prefixes)


def test_the_table_is_read():
    allowed, compiled = read_table()
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert set(allowed) == folders - {"data"}
    assert "numpy" in allowed["algorithms"] and compiled == {"numba"}
    assert "lsst.pipe.base" in allowed["tasks"] and "adapters.psfs" in allowed["tasks"]


@pytest.mark.parametrize(
    "path, name, expected",
    [
        ("algorithms/match/x.py", "lsst.images.Box", False),
        ("algorithms/match/x.py", "numba.njit", False),
        ("algorithms/match/x_nb.py", "numba.njit", True),
        ("algorithms/match/x.py", "lsst.twinkles.diffim.algorithms.fourier", True),
        ("algorithms/match/x.py", "lsst.twinkles.diffim.tasks.errors", False),
        ("tasks/x.py", "lsst.daf.butler.Butler", False),
        ("tasks/x.py", "lsst.twinkles.diffim.adapters.plain_fits.read_plain_fits", False),
        ("tasks/x.py", "lsst.twinkles.diffim.adapters.psfs.sample_psf", True),
        ("pipeline/x.py", "lsst.twinkles.diffim.cli.gen2_ids", False),
        ("cli/x.py", "lsst.twinkles.diffim.report.figures", True),
        ("cli/x.py", "flask", False),
    ],
)
def test_the_rule(path, name, expected):
    assert is_allowed(SOURCE / path, name, *read_table()) is expected


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_module_keeps_to_its_layer(path):
    if path.parent == SOURCE:
        return
    table = read_table()
    wrong = [
        f"line {line}: {name}" for line, name in imported_modules(path) if not is_allowed(path, name, *table)
    ]
    assert not wrong, f"{path} imports what doc/architecture.md does not let its layer import: {wrong}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_module_is_not_too_long(path):
    assert len(path.read_text().splitlines()) <= 500
