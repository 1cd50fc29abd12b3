"""Who may write a run: one numbered lease beside it, renewed while its holder lives.

    runs/<identity>/lease.<n>.json   claim, token, host, process, job

The highest number holds. Taking one over makes the next number, which the file system lets one
process alone do; a holder looks before every checkpoint and result whether its own file still
stands, so a lost machine that comes back writes nothing. No lock of the file system is needed
between machines.

A *claim* is one attempt as its coordinator asked for it: the worker takes the claim's lease over
in its own name, and so does the same job started again by its queue.
"""

import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from hymba_lab.atomic import json_of
from hymba_lab.errors import LeaseLost, StoreError

RENEW_S = 15.0
LEASE_S = 180.0
"""After so long [s] without a sign of life a lease is free: twelve renewals were missed."""

_NAME = re.compile(r"lease\.(\d+)\.json")


@dataclass(frozen=True)
class Held:
    """A lease as it stands in its folder."""

    path: Path
    number: int
    claim: str
    token: str
    holder: dict[str, Any]

    @property
    def by(self) -> str:
        """Who holds it, for people."""
        job = f", {self.holder['job']}" if self.holder.get("job") else ""
        return f"process {self.holder.get('pid')} on {self.holder.get('host')}{job}"

    @property
    def here(self) -> bool:
        """Whether its holder is a process that this one can see."""
        return self.holder.get("space") == _space()

    @property
    def is_free(self) -> bool:
        """Whether its holder is gone: dead on this machine, or silent for `LEASE_S`."""
        if self.here and not _alive(self.holder):
            return True
        return abs(age_s(self.path)) > LEASE_S  # a time ahead is of a clock that was wrong


class Lease:
    """A lease that this process took; use `require` before whatever must have one writer."""

    def __init__(self, held: Held) -> None:
        self.path, self.claim, self.token = held.path, held.claim, held.token
        self._folder = held.path.parent
        self._ended = threading.Event()

    @property
    def valid(self) -> bool:
        """Whether this process still holds the run."""
        held = newest(self._folder)
        if held is not None and not held.token:  # one failed read is no other holder
            return held.path == self.path
        return held is not None and held.token == self.token

    def require(self) -> None:
        """Raise `LeaseLost` when another one has taken the run over."""
        if not self.valid:
            raise LeaseLost(f"{self._folder}: another process has taken this run over.")

    def renew(self) -> None:
        """Show a sign of life."""
        with suppress(OSError):
            os.utime(self.path)

    def keep(self, on_lost: Callable[[], None] | None = None) -> None:
        """Renew it in a thread until it is released; `on_lost()` is called once it is lost."""

        def renew() -> None:
            while not self._ended.wait(RENEW_S):
                try:
                    valid = self.valid
                except StoreError:  # the folder cannot be read now: looked at again
                    continue
                if not valid:
                    if on_lost is not None and not self._ended.is_set():
                        on_lost()
                    return
                self.renew()

        threading.Thread(target=renew, daemon=True, name="lease").start()

    def release(self) -> None:
        """Give it back; one that was lost is left to its new holder."""
        self._ended.set()
        with suppress(OSError):
            if self.valid:
                self.path.unlink(missing_ok=True)


def newest(folder: Path) -> Held | None:
    """Return the lease that counts in a run's folder, or None."""
    for _ in range(10):
        try:
            numbers = [int(m[1]) for name in os.listdir(folder) if (m := _NAME.fullmatch(name))]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(
                f"{folder}: cannot be read: {error.strerror}; give a folder of your own with "
                "--root, or have it given to you."
            ) from None
        if not numbers:
            return None
        found = _read(folder, max(numbers))
        if found is not None:  # else it was given back between the two looks
            return found
    return None


def take(folder: Path, claim: str | None = None, job: str = "") -> Lease | None:
    """Return the lease of a run's folder, or None while another one holds it.

    A holder with the same `claim` is this attempt's own coordinator, or its former start.
    """
    held = newest(folder)
    if held is not None and held.claim != claim and not held.is_free:
        return None
    number = held.number + 1 if held else 1
    taken = _make(folder, number, claim or uuid.uuid4().hex, job)
    if taken is not None and held is not None:
        held.path.unlink(missing_ok=True)
    return Lease(taken) if taken is not None else None


def take_over(folder: Path, claim: str, job: str = "") -> Lease | None:
    """Return the lease of an attempt that a coordinator claimed, or None when it is void by now."""
    held = newest(folder)
    return take(folder, claim, job) if held is not None and held.claim == claim else None


def clear(folder: Path, claim: str) -> None:
    """Void the lease of an attempt that has ended, whatever its process believes."""
    held = newest(folder)
    if held is not None and held.claim == claim:
        held.path.unlink(missing_ok=True)


@contextmanager
def waited_for(
    folder: Path, timeout: float = -1, told: Callable[[str], None] | None = None
) -> Iterator[Lease | None]:
    """Hold the run's lease for this process, or yield None when `timeout` [s] passes (-1 = wait).

    After two seconds `told` is told once for whom it waits.
    """
    begin, said = time.monotonic(), False
    while (lease := take(folder)) is None:
        waited = time.monotonic() - begin
        if 0 <= timeout <= waited:
            yield None
            return
        if waited > 2 and not said and told and (held := newest(folder)) is not None:
            said = True
            told(
                f"{folder}: waiting for {held.by}; it is taken over when it is gone, or silent "
                f"for {LEASE_S:.0f} s."
            )
        time.sleep(0.05 if waited < 2 else 0.5)
    lease.keep()
    try:
        yield lease
    finally:
        lease.release()


def age_s(path: Path) -> float:
    """Return how long ago a file was renewed [s], by the clock of its own file system.

    Who may only read there, or finds the disk full, goes by this machine's clock.
    """
    probe = path.with_name(f".clock.{uuid.uuid4().hex}")
    try:
        renewed = path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}.") from None
    now = time.time()
    with suppress(OSError):
        probe.touch()
        now = probe.stat().st_mtime
    with suppress(OSError):
        probe.unlink(missing_ok=True)
    return now - renewed


def this_process(job: str = "") -> dict[str, Any]:
    """Return what tells this process from every other one."""
    return {
        "host": socket.gethostname(), "space": _space(), "pid": os.getpid(),
        "started": psutil.Process().create_time(), "ticks": _ticks(os.getpid()), "job": job,
    }  # fmt: skip


def is_alive(holder: dict[str, Any]) -> bool | None:
    """Whether a noted process lives; None when it is none that this process can see."""
    return _alive(holder) if holder.get("space") == _space() else None


def _alive(holder: dict[str, Any]) -> bool:
    try:
        process = psutil.Process(int(holder["pid"]))
        if (ticks := holder.get("ticks")) is not None:  # a clock that is set moves `started`
            same = ticks == _ticks(process.pid)
        else:
            same = abs(process.create_time() - float(holder["started"])) < 1
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, KeyError, ValueError, TypeError):
        return False


def _ticks(pid: int) -> int | None:
    """Return when a process started, in ticks since the machine did; None where none are told."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        return int(said.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


@cache
def _space() -> str:
    """Name the set of processes that this one can see: its machine, and its container there."""
    try:
        inside = os.readlink("/proc/self/ns/pid")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        inside = boot = ""
    return f"{socket.gethostname()} {boot} {inside}".strip()


def _read(folder: Path, number: int) -> Held | None:
    path = folder / f"lease.{number}.json"
    try:
        found = json_of(path)
        return Held(path, number, found["claim"], found["token"], found["holder"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):  # half written, or not ours: held until old
        return Held(path, number, "", "", {})


def _make(folder: Path, number: int, claim: str, job: str) -> Held | None:
    """Make the lease of this number, which only one process can; None for the others."""
    path, token, holder = folder / f"lease.{number}.json", uuid.uuid4().hex, this_process(job)
    text = json.dumps({"claim": claim, "token": token, "holder": holder})
    beside = folder / f".lease.{token}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        try:
            os.link(beside, path)  # fails where the name is taken, on network file systems too
        except FileExistsError:
            return None
        except OSError:  # a file system without links
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except FileExistsError:
        return None
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be locked: {error.strerror}; "
            "give a folder you can write to with --root."
        ) from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    held = newest(folder)  # a slower process may have made a number that was given back meanwhile
    return held if held is not None and held.token == token else None
