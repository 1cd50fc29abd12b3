"""A run's way to its store while a model trains: calls wait their turn in a thread of its own.

Training never waits for a store. One that is away for minutes gets everything afterwards; one that
stays away is given up, and the coordinator mirrors the run from its folder.
"""

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from hymba_lab.errors import StoreError

_CLOSE_S = 60.0


class Outbox:
    """Makes calls to a run in order.

    `allowed()` is asked before every call: who has lost a run writes nothing about it.
    """

    def __init__(self, run: Any, allowed: Callable[[], bool] | None = None) -> None:
        self._run, self._allowed = run, allowed
        self._waiting: queue.SimpleQueue[tuple[str, tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._delivered = False
        self._thread = threading.Thread(target=self._deliver, daemon=True, name="outbox")
        self._thread.start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Send metrics of a step."""
        self._waiting.put(("log", (dict(metrics), step)))

    def describe(self, params: Mapping[str, Any] = {}, tags: Mapping[str, str] = {}) -> None:
        """Send parameters and tags."""
        self._waiting.put(("describe", (dict(params), dict(tags))))

    def end(self, status: str, wait_s: float = _CLOSE_S) -> bool:
        """Close the run; returns whether all has arrived within `wait_s`."""
        self._waiting.put(("end", (status,)))
        return self.close(wait_s)

    def close(self, wait_s: float = 5.0) -> bool:
        """Send what waits and stop; returns whether all has arrived within `wait_s`."""
        self._waiting.put(("flush", ()))
        self._waiting.put(None)
        self._thread.join(wait_s)
        return self._delivered

    def _deliver(self) -> None:
        try:
            while (call := self._waiting.get()) is not None:
                if self._allowed is not None and not self._allowed():
                    return
                getattr(self._run, call[0])(*call[1])
            self._delivered = True
        except StoreError:
            return
