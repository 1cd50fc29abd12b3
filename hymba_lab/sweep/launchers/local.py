"""Trials on this machine.

Every trial is a process of its own, forked from a server that has imported torch,
lightning and mlflow once: a crash costs one trial, a start costs milliseconds.
"""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from pebble import ProcessPool

_PRELOAD = "hymba_lab.sweep.trial"


class ForkServer:
    """`n_workers` processes at a time, one per trial, each with `n_threads` torch threads."""

    def __init__(self, n_workers: int, n_threads: int, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(n_threads)
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # cores are shared
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([_PRELOAD])
        self._pool = ProcessPool(max_workers=n_workers, max_tasks=1, context=context)

    def submit(self, function: Callable[[Any], str], task: Any) -> "Future[str]":
        """Run function(task) in a fresh process; it is killed when the time limit passes."""
        return self._pool.schedule(function, args=[task], timeout=self._timeout_s)

    def stop(self) -> None:
        """Kill the workers at once."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()
