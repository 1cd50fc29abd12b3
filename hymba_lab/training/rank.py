"""One rank of a run on several devices, as a process: `ranks` starts it and tells it the run."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from hymba_lab.config import from_resolved
from hymba_lab.errors import TrialFailed, UserError
from hymba_lab.training.fit import fit


def _ends_with_rank_0() -> None:
    """Wait for the input to close, which rank 0 does at its end, whatever ends it."""
    sys.stdin.read()
    time.sleep(5)  # after a last step this process is about to end by itself
    os._exit(1)


def main() -> int:
    """Train as one rank of the run that standard input describes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is rank 0's to answer
    told = json.loads(sys.stdin.readline())
    threading.Thread(target=_ends_with_rank_0, daemon=True).start()
    try:
        fit(from_resolved(told["config"], own=True), seed=told["seed"], folder=Path(told["folder"]))
    except (TrialFailed, UserError):
        return 2  # rank 0 says why
    except SystemExit as error:
        if error.code != 128 + signal.SIGTERM:
            raise
    return 0  # trained, or left with the others when one was asked to


if __name__ == "__main__":
    # no destructors: gloo's threads and a daemon that reads standard input would race them
    status = main()
    sys.stderr.flush()
    os._exit(status)
