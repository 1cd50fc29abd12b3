"""The server that processes are forked from.

The server imports once what all of them need: a start costs milliseconds. Besides, Python runs a
process that removes what a killed one leaves behind (its resource tracker). Whichever of the two is
killed, a new one does its work.
"""

import multiprocessing
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext

_DEAF = "hymba_lab.processes.deaf"
_SILENT = "ignore:resource_tracker:UserWarning"


def forking(preload: str) -> ForkServerContext:
    """Start the server, with the module `preload` imported, and return what starts processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_DEAF, preload])
    # "process died unexpectedly, relaunching": it is started anew, and nothing is to be done
    warnings.filterwarnings("ignore", "resource_tracker: process died", UserWarning)
    with _silent_tracker():
        resource_tracker.ensure_running()  # it would lift the mask
    # A terminal sends Ctrl-C to everyone. While the server imports, and in a child until it works,
    # Python would answer it with a traceback. A mask passes to whom a process starts; a signal
    # that comes meanwhile waits here until it is lifted.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


@contextmanager
def _silent_tracker() -> Iterator[None]:
    """Let the tracker not warn of what it removes after a kill: that is what it is there for."""
    sys.warnoptions.append(_SILENT)
    try:
        yield
    finally:
        sys.warnoptions.remove(_SILENT)
