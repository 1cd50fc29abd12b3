"""Start the other processes of a run on several devices; `python -m` is one of them.

The process that trains is rank 0: it logs, stops and writes. The others get the configuration on
their standard input and end when it closes, so that none outlives it. Under `torchrun`, which has
started every rank already, nothing is started here.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from hymba_lab.config import Config
from hymba_lab.errors import ConfigError, TrialFailed
from hymba_lab.training.world import World, world

_GRACE = 30  # seconds that rank 0 has to notice by itself that another rank has died


@contextmanager
def all_ranks(config: Config, *, seed: int, folder: Path) -> Iterator[World]:
    """Train with every rank that the configuration asks for; raises `TrialFailed("crash")`.

    `training.devices` is started here unless `torchrun` says another number.
    """
    n_ranks = config.training.devices
    if "RANK" in os.environ or n_ranks == 1:
        yield world()
        return
    _require_gpus(n_ranks)
    ours = _place(0, n_ranks) | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_port())}
    os.environ |= ours
    others = [_start(rank, n_ranks, config, seed, folder) for rank in range(1, n_ranks)]
    done = threading.Event()
    threading.Thread(target=_watch, args=(others, done), daemon=True).start()
    try:
        yield world()
    except RuntimeError as error:
        if any(other.wait_briefly() not in (None, 0) for other in others):
            raise TrialFailed("crash", f"another rank died: {_first_line(error)}") from error
        raise
    finally:
        done.set()
        if dist.is_initialized():
            dist.destroy_process_group()
        for other in others:
            other.end()
        for name in ours:
            del os.environ[name]


def _require_gpus(n_ranks: int) -> None:
    """Refuse more ranks than there are GPUs; processes of a CPU may be any number."""
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if 0 < n_gpus < n_ranks:
        raise ConfigError(
            f"{n_ranks} devices are asked for and {n_gpus} GPUs are here; set training.devices to "
            f"{n_gpus} at most (the batch stays as it is).",
            "training.devices",
        )


class _Rank:
    """Another process of the run."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def wait_briefly(self) -> int | None:
        """Return the exit status, None while it runs."""
        try:
            return self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """Close its input and wait; kill it where it does not end."""
        assert self.process.stdin is not None
        try:
            self.process.wait(timeout=10)  # it is about to end by itself after the last step
        except subprocess.TimeoutExpired:
            self.process.stdin.close()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if not self.process.stdin.closed:
            self.process.stdin.close()


def _start(rank: int, n_ranks: int, config: Config, seed: int, folder: Path) -> _Rank:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    threads = dict.fromkeys(names, str(torch.get_num_threads()))  # as many as rank 0 was told
    process = subprocess.Popen(
        [sys.executable, "-m", "hymba_lab.training.rank"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **_place(rank, n_ranks), **threads},
        text=True,
    )
    assert process.stdin is not None
    told = {"config": config.resolved(), "seed": seed, "folder": str(folder)}
    process.stdin.write(json.dumps(told) + "\n")
    process.stdin.flush()
    return _Rank(process)


def _place(rank: int, n_ranks: int) -> dict[str, str]:
    """What `torchrun` would set on one machine."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n_ranks),
        "LOCAL_WORLD_SIZE": str(n_ranks), "GROUP_RANK": "0",
    }  # fmt: skip


def _port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _watch(others: list[_Rank], done: threading.Event) -> None:
    """End this process where another rank died and the collective operation does not say so."""
    while not done.wait(1):
        if any(other.process.poll() not in (None, 0) for other in others):
            if not done.wait(_GRACE):
                print("another rank died; this one cannot go on", file=sys.stderr, flush=True)
                os._exit(70)
            return


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
