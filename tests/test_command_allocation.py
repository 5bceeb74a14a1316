"""Memory that the commands keep."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from lsst.twinkles.diffim.cli.allocation import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(2):
    np.full(10_000_000, 1.0)
before = resource.getrusage(resource.RUSAGE_SELF)
for _ in range(20):
    np.full(10_000_000, 1.0)
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_minflt - before.ru_minflt)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of the GNU C library")
def test_large_arrays_are_not_cleared_by_the_system_each_time():
    fresh, kept = (
        int(subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True).stdout)
        for how in ("leave", "keep")
    )
    assert fresh > 20 * 10  # a page is 2 MB at most
    assert kept < fresh / 10


COUNT = """\
import atexit, gc
from lsst.twinkles.diffim.cli.allocation import end_quickly
atexit.register(lambda: print(gc.get_freeze_count() > 1000))  # the first to be registered is the last to run
end_quickly()
end_quickly()
print(gc.get_freeze_count())
"""


def test_at_the_end_no_object_is_looked_at_any_more():
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True"] and not done.stderr


IMPORT = """\
import gc
from lsst.twinkles.diffim.cli.allocation import import_quickly
with import_quickly():
    print(gc.isenabled())
    import lsst.pipe.base
print(gc.isenabled(), gc.get_freeze_count() > 1000)
gc.unfreeze()
with import_quickly():
    print(gc.isenabled())
print(gc.get_freeze_count())
"""


def test_no_cycles_are_looked_for_among_what_is_imported_first():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True", "True", "0"]
