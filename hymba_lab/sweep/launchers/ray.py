"""Trials as plain tasks of Ray, never tried again by Ray itself.

Ray's workers stay; each forks a process for a trial. With a worker a trial (`max_calls=1`) every
trial would start Python and import torch anew: seconds instead of milliseconds.

Not Ray Tune: what runs next is a pure function of the runs' results (`planner`), so that a sweep
may be killed and continued anywhere; Tune keeps a second state of its own.
"""

import functools
import math
import os
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Annotated, Any

from pydantic import Field

from hymba_lab.errors import LaunchError, TrialFailed, TrialInterrupted
from hymba_lab.runs.store_uri import SECRETS
from hymba_lab.sweep.launchers.base import Launcher, Site, failure_of, launchers
from hymba_lab.sweep.launchers.forked import ForkedTrials
from hymba_lab.sweep.launchers.needs import Needs

_LOOK_S = 10.0  # how often the nodes of the cluster are asked for


@launchers.register("ray")
class Ray(Launcher):
    """Tasks of a Ray cluster, joined at `address` (auto: this machine's; local: a new one)."""

    def __init__(
        self, site: Site, *, address: str = "auto", max_tasks: Annotated[int, Field(ge=1)] = 500
    ) -> None:
        self.site, self.capacity, self._address = site, max_tasks, address
        self._tasks: dict[Future[str], Any] = {}
        self._asked: dict[Future[str], Needs] = {}  # of the tasks that have not ended
        self._remote: dict[Needs, Any] = {}
        self._ray: Any = None
        self._looked = -math.inf

    def submit(self, function: Callable[[Any], str], task: Any) -> "Future[str]":
        """Run function(task) in a process of its own, on a node that has what the task needs."""
        ray = self._connected()
        timeout_s = self.site.timeout_s
        if task.needs not in self._remote:  # Ray would export a function made anew for every task
            self._remote[task.needs] = ray.remote(**options(task.needs))(in_fork)
        reference = self._remote[task.needs].remote(function, task, timeout_s)
        future: Future[str] = Future()
        future.set_running_or_notify_cancel()
        self._tasks[future], self._asked[future] = reference, task.needs
        reference.future().add_done_callback(lambda done: self._settle(future, done))
        return future

    def _settle(self, future: "Future[str]", done: "Future[str]") -> None:
        """Hand on how a task ended."""
        self._tasks.pop(future, None)
        self._asked.pop(future, None)
        error = done.exception()
        if error is None:
            future.set_result(done.result())
        else:
            future.set_exception(why_ray(error))

    def attach(self, task: Any) -> "Future[str] | None":
        """Ray ends the tasks of a driver that is gone: there is nothing to find again."""
        return None

    def why(self, error: BaseException) -> TrialFailed | TrialInterrupted:
        """Return why an attempt ended, by the class of Ray's exception."""
        return failure_of(error)

    def waits_for(self) -> str:
        """Return which tasks no node of the cluster could hold; one that can may still join."""
        if self._ray is not None and time.monotonic() - self._looked > _LOOK_S:
            self._looked = time.monotonic()
            with suppress(Exception):  # a cluster that is gone is told by its tasks
                self.trouble = held_by_none(self._ray.nodes(), set(self._asked.copy().values()))
        return self.trouble

    def plan(self, name: str, needs: Needs, folder: Any) -> str:
        """Return what `--plan` shows for a row: the task's options."""
        return "ray.remote(" + ", ".join(f"{k}={v!r}" for k, v in options(needs).items()) + ")"

    def stop(self) -> None:
        """Kill what is running; unfinished runs keep their checkpoints."""
        if self._ray is None:
            return
        for reference in list(self._tasks.values()):
            with suppress(Exception):  # a cluster that is gone runs nothing
                self._ray.cancel(reference, force=True)
        self._ray.shutdown()
        self._ray = None

    def leave(self) -> None:
        """As `stop`: Ray ends a driver's tasks with it."""
        self.stop()

    def _connected(self) -> Any:
        if self._ray is not None:
            return self._ray
        try:
            import ray
        except ImportError:
            raise LaunchError(
                "--launcher ray: the package ray is not installed; pip install 'hymba-lab[ray]'."
            ) from None
        n = str(self.site.n_threads)
        environment = {"OMP_NUM_THREADS": n, "MKL_NUM_THREADS": n, "OMP_WAIT_POLICY": "passive"}
        hidden = {name: os.environ.pop(name) for name in SECRETS if name in os.environ}
        try:
            if not ray.is_initialized():
                address = None if self._address == "local" else self._address
                ray.init(
                    address=address,
                    log_to_driver=False,
                    configure_logging=False,
                    runtime_env={"env_vars": environment},
                )
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            said = " ".join(str(error).split())[:300]
            raise LaunchError(
                f"--launcher ray: no cluster at {self._address!r}: {said}; start one (`ray start "
                "--head`), name another in launcher.address, or say `address: local`."
            ) from None
        finally:
            os.environ.update(hidden)
        self._ray = ray
        return ray


def options(needs: Needs) -> dict[str, Any]:
    """Return what `ray.remote` is told: workers that stay, no silent second try."""
    asked: dict[str, Any] = {
        "num_cpus": needs.cpus or 1,
        "num_gpus": needs.gpus if needs.trials_per_gpu == 1 else needs.gpus / needs.trials_per_gpu,
        "max_calls": 0,
        "max_retries": 0,
    }
    if needs.memory_gb is not None:
        asked["memory"] = round(needs.memory_gb * 1e9)
    return asked


def held_by_none(nodes: Sequence[Mapping[str, Any]], asked: Collection[Needs]) -> str:
    """Return what a task waits for that none of these nodes (`ray.nodes()`) could hold, else ""."""
    there = [node["Resources"] for node in nodes if node["Alive"]]
    for needs in asked:
        told = options(needs)
        wanted = {"CPU": told["num_cpus"], "GPU": told["num_gpus"], "memory": told.get("memory", 0)}
        if not any(all(node.get(k, 0) >= n for k, n in wanted.items()) for node in there):
            memory = f", {needs.memory_gb:g} GB" if needs.memory_gb else ""
            return (
                f"no node of the Ray cluster has {wanted['CPU']} CPUs, {wanted['GPU']:g} GPUs"
                f"{memory}; ask for less in --resources, or add such a node"
            )
    return ""


@functools.cache
def _trials() -> ForkedTrials:
    """Return the server of this worker of Ray."""
    return ForkedTrials(1)


def in_fork(function: Callable[[Any], str], task: Any, timeout_s: float | None) -> str:
    """Be a task of Ray: function(task) in a process of its own, which leaves when we are asked to.

    Raises `TrialFailed` or `TrialInterrupted`, whatever ended the process.
    """
    trials = _trials()
    shown = "CUDA_VISIBLE_DEVICES"  # Ray's choice for this task, not for the server's first
    environment = {shown: os.environ[shown]} if shown in os.environ else {}
    before = signal.signal(signal.SIGTERM, lambda *_: trials.ask_to_leave())
    try:
        return trials.submit(function, task, environment, timeout_s).result()
    except BaseException as error:
        raise trials.why(error) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def why_ray(error: BaseException) -> TrialFailed | TrialInterrupted:
    """Return what one of Ray's exceptions means for its trial."""
    from ray import exceptions

    cause = getattr(error, "cause", None)
    if isinstance(cause, TrialFailed | TrialInterrupted):
        return cause
    if isinstance(error, TrialFailed | TrialInterrupted):
        return error
    said = " ".join(str(error).split())[:300]
    if isinstance(error, exceptions.OutOfMemoryError):
        return TrialFailed("out_of_memory", f"Ray: {said}")
    if isinstance(error, exceptions.TaskCancelledError):
        return TrialInterrupted("cancelled", f"Ray: {said}")
    if isinstance(error, exceptions.WorkerCrashedError):
        return TrialFailed("crash", f"Ray: the worker died: {said}")
    if isinstance(
        error,
        exceptions.NodeDiedError | exceptions.LocalRayletDiedError | exceptions.ObjectLostError,
    ):
        return TrialInterrupted("node_lost", f"Ray: {said}")
    return TrialFailed("crash", f"{type(error).__name__}: {said}")
