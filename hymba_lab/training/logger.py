"""Lightning's logger interface around a function."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch.loggers import Logger

Log = Callable[[dict[str, float], int], None]


class FunctionLogger(Logger):
    """Hands every record to `log(metrics, step)`; `step` counts finished optimizer steps."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    @property
    def name(self) -> str:
        """A constant: the caller knows which run this is."""
        return "hymba_lab"

    @property
    def version(self) -> str:
        """A constant, as the name."""
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Pass the record on."""
        assert step is not None
        self._log(metrics, step)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the resolved configuration is the record of the hyperparameters."""
