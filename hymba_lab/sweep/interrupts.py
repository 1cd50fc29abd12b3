"""A coordinator that is told to go: by Ctrl-C, or so that its trials may stay (preempted)."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class CoordinatorLeaves(BaseException):
    """The coordinator ends and its jobs go on; the next one finds them again."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def leaving_on_signals(wanted: bool) -> Iterator[None]:
    """Turn SIGTERM and Slurm's warning of the end of time into an exit that leaves jobs alone."""
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: object) -> None:
        raise CoordinatorLeaves(number)

    before = {n: signal.signal(n, leave) for n in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        yield
    except CoordinatorLeaves as left:
        from hymba_lab.sweep.detach import again

        for number in before:  # it goes already: nothing is to break off its last words
            signal.signal(number, signal.SIG_IGN)
        before = {}
        if left.number == signal.SIGUSR2 and (job := again()):  # its time is up
            print(f"The time of this job is up; Slurm job {job} goes on.", flush=True)
        raise SystemExit(128 + signal.SIGTERM) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class CtrlC:
    """Ctrl-C that is not lost: where Python swallows the exception, `again` raises it.

    An interrupt that falls into a callback of the garbage collector is printed and forgotten.
    """

    def __init__(self) -> None:
        self._pressed = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Remember that the key was pressed, where Python's own handler would answer."""
        mine = threading.current_thread() is threading.main_thread()
        if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._press)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def again(self) -> None:
        """Raise the interrupt that has not arrived."""
        if self._pressed:
            self._pressed = False
            raise KeyboardInterrupt

    def _press(self, number: int, frame: object) -> None:
        self._pressed = True
        raise KeyboardInterrupt
