"""Imported first by a fork server: it and its children leave Ctrl-C to who started them.

A server that was killed is started anew by whichever thread asks, where no mask can be trusted.
"""

import signal
import sys

if any("multiprocessing.forkserver" in word for word in sys.orig_argv):  # nowhere else
    signal.signal(signal.SIGINT, signal.SIG_IGN)
