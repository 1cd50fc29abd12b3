"""SIGTERM while a model trains: noted at once, answered after a step, by all ranks together."""

import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from hymba_lab.training.world import on_any_rank


class Leaving(Callback):
    """Ends training after the step in which some rank was asked to leave."""

    def __init__(self) -> None:
        self._listener = _Listener()
        self.now = False
        """Whether some rank was asked, as all agreed after the last step."""

    def listen(self, trainer: Trainer) -> None:
        """Take the place of the trainer's own handler while it fits."""
        assert hasattr(trainer, "_signal_connector")
        trainer._signal_connector = self._listener  # type: ignore[assignment]

    def agree(self) -> bool:
        """Ask all ranks whether one of them was asked to leave."""
        self.now = on_any_rank(self._listener.asked)
        return self.now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Leave, if that was agreed: after the last step, too, for a stage may come behind it."""
        if self.now:
            raise SIGTERMException


class _Listener:
    """What the trainer calls around training, in the place of its own signal handling.

    Lightning's handler talks to the other ranks from inside the signal: a rank that is asked alone,
    as Slurm and Ray ask rank 0, is then one collective operation ahead of the others, and all wait
    for ever (Lightning issue 20806).
    """

    received_sigterm = False
    """What Lightning's loops look at, every rank by itself; here all leave in one place."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def register_signal_handlers(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {signal.SIGTERM: signal.signal(signal.SIGTERM, self._note)}
            # the trainer is deaf to a second Ctrl-C while it ends after the first
            self._before[signal.SIGINT] = signal.getsignal(signal.SIGINT)

    def teardown(self) -> None:
        for number, handler in self._before.items():
            if handler is not None:  # set by C code: not known here
                signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
