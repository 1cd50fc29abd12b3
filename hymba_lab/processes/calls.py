"""Calls in processes of their own: whatever ends a process, one call is lost and nothing else.

Nothing is shared between the processes, and none waits for work: a pool that hands tasks to waiting
workers is broken for good by a kill that hits one of them between two tasks.
"""

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from multiprocessing.reduction import ForkingPickler
from types import ModuleType
from typing import Any

import psutil

from hymba_lab.processes.forked import forking

SERVER_LOST = 255
"""Multiprocessing's exit code where the server cannot tell how a process ended."""
_PATIENCE_S = 3.0  # from the request to leave to the kill
_DAY_S = 86400.0  # the system takes no wait of more than 24 days
_EXIT_S = 60.0  # from the answer to the end of the process


class ProcessEnded(Exception):
    """A process ended without an answer: its exit code, or minus the signal that killed it."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"a process ended with exit code {exit_code}")
        self.exit_code = exit_code


class Calls:
    """Calls of functions, at most `n` at a time, each in a process that a server forks."""

    def __init__(self, n: int, preload: str) -> None:
        self._context = forking(preload)
        self._free = threading.Semaphore(n)
        self._running: set[psutil.Process] = set()
        self._stopped = False

    def submit(
        self, function: Callable[..., Any], arguments: Sequence[Any], timeout_s: float | None = None
    ) -> "Future[Any]":
        """Return a future of function(*arguments).

        Its exception is the function's, TimeoutError, or ProcessEnded.
        """
        future: Future[Any] = Future()

        def settle() -> None:
            with self._free:
                if not future.set_running_or_notify_cancel():
                    return
                try:
                    answer = self._call(function, arguments, timeout_s)
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(answer)

        threading.Thread(target=settle, daemon=True).start()
        return future

    def signal(self, number: int) -> None:
        """Send a signal to all processes that run."""
        _send(self._running.copy(), number)

    def stop(self) -> None:
        """Ask all processes to leave, and kill those that have not left three seconds later."""
        self._stopped = True
        _end(self._running.copy())

    def _call(
        self, function: Callable[..., Any], arguments: Sequence[Any], timeout_s: float | None
    ) -> Any:
        reader, writer = self._context.Pipe(duplex=False)
        with reader:
            with writer:  # the process has its own: ours would keep the pipe open after its end
                process, alive = self._started(writer, function, arguments)
            self._running |= alive
            try:
                if self._stopped:
                    raise CancelledError
                good, value = _heard(reader, process, timeout_s)
                wait([process.sentinel], _EXIT_S)
            finally:
                _end(alive)
                self._running -= alive
        if not good:
            raise value
        return value

    def _started(self, *facts: Any) -> tuple[ForkServerProcess, set[psutil.Process]]:
        """Return a process that begins, and the same as the system knows it, if it still lives."""
        process = self._context.Process(target=_answer, args=facts)
        if self._stopped:
            raise CancelledError
        try:
            with _one_reader, _main_left_out():
                process.start()
        except (OSError, EOFError) as error:  # the server was killed; the next start begins one
            raise ProcessEnded(SERVER_LOST) from error
        with suppress(psutil.NoSuchProcess):
            return process, {psutil.Process(process.pid)}
        return process, set()


def _heard(
    reader: Connection, process: ForkServerProcess, timeout_s: float | None
) -> tuple[bool, Any]:
    """Return what a process answers: whether it went well, and the value or the exception."""
    end = math.inf if timeout_s is None else time.monotonic() + timeout_s
    heard = _first([reader, process.sentinel], end)
    if reader not in heard and _exit_code(process) == SERVER_LOST:  # the server's end: it works on
        heard = _first([reader], end)
    if not heard:
        raise TimeoutError
    with suppress(EOFError, OSError):
        if reader.poll():
            answer: tuple[bool, Any] = reader.recv()
            return answer
    wait([process.sentinel], _EXIT_S)
    raise ProcessEnded(_exit_code(process))


def _first(things: list[Any], end: float) -> list[Any]:
    """Return which of the things can be read, as soon as one can, or none at the end."""
    while True:
        left = max(0.0, end - time.monotonic())
        heard = wait(things, min(left, _DAY_S))
        if heard or left <= _DAY_S:
            return heard


_one_reader = threading.Lock()  # a start looks at every process's exit code, too


@contextmanager
def _main_left_out() -> Iterator[None]:
    """Let a process not run the script of who asked: what it is to do is found by import."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _exit_code(process: ForkServerProcess) -> int:
    with _one_reader:
        code = process.exitcode
    return SERVER_LOST if code is None else code


def _end(processes: set[psutil.Process]) -> None:
    """Ask processes to leave and kill those that stay, also where their server is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        _send(processes, number)
        _, staying = psutil.wait_procs(processes, timeout=_PATIENCE_S)
        processes = set(staying)


def _send(processes: set[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _answer(writer: Connection, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    """Be the process: send what the function returns or raises."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started us hears it, too, and ends us
    try:
        answer = True, function(*arguments)
    except BaseException as error:
        answer = False, _sendable(error)
    with writer, suppress(BrokenPipeError):  # nobody waits any more
        writer.send(answer)


def _sendable(error: BaseException) -> BaseException:
    """Return an exception that arrives: the same one, or its text."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
