"""Trials on this machine, each in a process of its own."""

import os
import subprocess
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from hymba_lab.errors import LaunchError, TrialFailed, TrialInterrupted
from hymba_lab.runs.provenance import n_cores
from hymba_lab.sweep.launchers.base import Launcher, Site, launchers
from hymba_lab.sweep.launchers.forked import ForkedTrials
from hymba_lab.sweep.launchers.needs import Needs


@launchers.register("local")
class ForkServer(Launcher):
    """A process per trial; with GPUs one trial on each, or `trials_per_gpu`, else one per core.

    Trials of several devices (`training.devices`) take so many GPUs, or cores, each.
    """

    def __init__(
        self, site: Site, *, trials_per_gpu: Annotated[int, Field(ge=1, le=64)] | None = None
    ) -> None:
        self.site = site
        gpus = visible_gpus()
        devices, per_gpu = site.needs.devices, trials_per_gpu or site.needs.trials_per_gpu
        _require_gpus(len(gpus), devices, per_gpu)
        self.capacity = trials_at_once(len(gpus), devices, per_gpu, site.n_workers)
        n = str(site.n_threads)
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = n
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # cores are shared
        # the GPUs that the next trials get, and those of the trials that run
        n_taken = self.capacity * devices
        self._places = [gpus[i % len(gpus)] for i in range(n_taken)] if gpus else []
        self._taken: list[tuple[Future[str], list[str]]] = []
        self._trials = ForkedTrials(self.capacity)

    def submit(self, function: Callable[[Any], str], task: Any) -> "Future[str]":
        """Run function(task) in a fresh process; it is killed when the time limit passes."""
        environment, places = {}, self._free(task.needs.devices)
        if places:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(places)
        future = self._trials.submit(function, task, environment, self.site.timeout_s)
        self._taken.append((future, places))
        return future

    def _free(self, n: int) -> list[str]:
        """Take n GPUs, after those of the trials that have ended are put back; none without GPUs.

        A trial that has ended is seen by its future: callbacks of it may still have to run.
        """
        before, self._taken = self._taken, []
        for future, own in before:
            if future.done():  # asked once: it may end at any moment
                self._places += own
            else:
                self._taken.append((future, own))
        return [self._places.pop() for _ in range(n)] if len(self._places) >= n else []

    def why(self, error: BaseException) -> TrialFailed | TrialInterrupted:
        """Return why a worker ended."""
        return self._trials.why(error)

    def plan(self, name: str, needs: Needs, folder: Path) -> str:
        """Return how many trials run at a time."""
        gpus = visible_gpus()
        return f"{self.capacity} trials at a time" + (f" on {len(gpus)} GPUs" if gpus else "")

    def stop(self) -> None:
        """Kill the workers at once."""
        self._trials.stop()


def trials_at_once(n_gpus: int, devices: int, per_gpu: int, n_workers: int | None) -> int:
    """Return how many trials of so many devices each run at a time here."""
    places = n_gpus * per_gpu if n_gpus else n_cores()
    found = n_workers or max(1, places // devices)
    return min(found, n_gpus // devices) if n_gpus >= devices > 1 else found


def _require_gpus(n_gpus: int, devices: int, per_gpu: int) -> None:
    if devices > 1 and per_gpu > 1:
        raise LaunchError(
            f"trials_per_gpu: {per_gpu}, but a trial trains on {devices} devices of its own "
            "(training.devices); leave one of them out."
        )
    if n_gpus and devices > n_gpus:
        raise LaunchError(
            f"a trial trains on {devices} devices (training.devices), this machine shows {n_gpus} "
            f"GPUs; give --set training.devices={n_gpus}, or hide them (CUDA_VISIBLE_DEVICES=) to "
            "train on cores."
        )


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = listed.stdout.splitlines() if listed.returncode == 0 else []
    return [str(index) for index, line in enumerate(lines) if line.startswith("GPU ")]
