#!/usr/bin/env python
import sys

from lsst.twinkles.diffim.cli.forced_photometry import main

if __name__ == "__main__":
    sys.exit(main())
