#!/usr/bin/env python
import sys

from lsst.twinkles.diffim.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
