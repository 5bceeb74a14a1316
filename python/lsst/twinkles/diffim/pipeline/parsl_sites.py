"""Computing sites for the Parsl plug-in of the batch service, beside those that it brings."""

from __future__ import annotations

__all__ = ("ThisMachine",)

import os

from parsl.executors import HighThroughputExecutor
from parsl.executors.base import ParslExecutor
from parsl.providers import LocalProvider

from lsst.ctrl.bps.parsl.configuration import get_bps_config_value
from lsst.ctrl.bps.parsl.sites import Local

_LOOPBACK = "127.0.0.1"


class ThisMachine(Local):
    """Jobs on this machine, whose processes talk to each other within it.

    Notes
    -----
    The plug-in's own ``Local`` listens for its workers on all network
    interfaces; this one listens on the loopback interface only.

    ``site.<computeSite>.cores`` (`int`) is the number of jobs at a time, that
    of the processors by default.
    """

    def get_executors(self) -> list[ParslExecutor]:
        """Return the one executor."""
        cores = get_bps_config_value(self.site, "cores", int, os.cpu_count() or 1)
        return [
            HighThroughputExecutor(
                "local", address=_LOOPBACK, provider=LocalProvider(), max_workers_per_node=cores
            )
        ]
