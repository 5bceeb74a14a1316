"""Modules whose import is deferred until their first use."""

import subprocess
import sys

PROGRAM = """
import sys
from pathlib import Path
from lsst.twinkles.diffim.adapters.lazy_imports import defer_import

sys.path.insert(0, sys.argv[1])
Path(sys.argv[1], "slow_library.py").write_text("import builtins; builtins.loaded = True; answer = 42")
defer_import("slow_library")
defer_import("a_library_that_is_not_there")
import slow_library
import builtins
assert not hasattr(builtins, "loaded")
assert slow_library.answer == 42 and builtins.loaded
try:
    import a_library_that_is_not_there
except ModuleNotFoundError:
    print("as it should be")
"""

PIFF = """
import sys
import lsst.twinkles.diffim.adapters.psfs
import piff
assert "sklearn" not in sys.modules
assert piff.gp_interp.treegp.GPInterpolation and "sklearn" in sys.modules
"""


def run(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True
    ).stdout


def test_a_module_is_loaded_when_it_is_used(tmp_path):
    assert run(PROGRAM, str(tmp_path)) == "as it should be\n"


def test_piff_does_without_what_it_does_not_use():
    run(PIFF)
