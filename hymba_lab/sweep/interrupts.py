"""A coordinator that is told to go while its trials may stay: preempted, or out of time."""

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

        if left.number == signal.SIGUSR2:  # Slurm ends this job soon, and starts no other one
            again()
        raise SystemExit(128 + signal.SIGTERM) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
