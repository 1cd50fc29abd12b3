"""What a user did wrong or a machine refused, said in one message without a traceback.

Every message follows one shape: where (file:line:column and config path), what was given,
what is allowed, what to do. Command lines print it and exit with code 2.
"""

import difflib
import traceback
from collections.abc import Container, Iterable
from typing import Generic, Literal, TypeVar

FailureReason = Literal["nan", "out_of_memory", "timeout", "crash", "disk", "data", "refused"]
Interruption = Literal["preempted", "cancelled", "node_lost"]
"""What ended an attempt and was not its trial's fault."""


class UserError(Exception):
    """Something the user can mend; its text is shown as it is.

    `path` is the dotted place in the configuration, where it is known; the loader turns it into
    file:line:column.
    """

    path: str | None = None


class ConfigError(UserError):
    """A configuration asks for something that does not exist or cannot work."""

    def __init__(self, message: str, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class DataError(UserError):
    """Training data is missing, unreadable, empty or too small."""


class CheckpointError(UserError):
    """A checkpoint is truncated, of another version, or of another model."""


class StoreError(UserError):
    """The run folder, the study or the tracking store cannot be read or written."""


class LaunchError(UserError):
    """The cluster cannot be reached, or takes no job of this kind."""


class LeaseLost(Exception):
    """Another process has taken this run over: this one must write nothing more."""


class SweepStopped(Exception):
    """`hymba-lab stop` was asked for this sweep."""


R = TypeVar("R", bound=str)


class _Ended(Exception, Generic[R]):
    def __init__(self, reason: R, message: str) -> None:
        super().__init__(reason, message)  # both, so that it survives pickling
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class TrialInterrupted(_Ended[Interruption]):
    """An attempt ended for no fault of its trial, which goes on from its checkpoint."""


class TrialFailed(_Ended[FailureReason]):
    """One trial ended without a result; the sweep goes on and records `reason`."""


def last_line(error: BaseException, files: Container[str]) -> tuple[str, int] | None:
    """Return file and number of the last line of these files that an error passed, if any."""
    frames = traceback.extract_tb(error.__traceback__)
    passed = [(frame.filename, frame.lineno or 0) for frame in frames if frame.filename in files]
    return passed[-1] if passed else None


_MOST_NAMES, _LONGEST = 40, 80


def suggest(given: str, known: Iterable[str]) -> str:
    """Return `; choose one of a, b. Did you mean 'a'?` for a name that is not among `known`.

    Of very many names the first are told, and of a very long one its beginning.
    """
    names = list(known)
    if not names:
        return "; nothing is allowed here."
    near = difflib.get_close_matches(given, names, n=1)
    hint = f" Did you mean {_short(near[0])!r}?" if near else ""
    left = len(names) - _MOST_NAMES
    more = f" and {left} more" if left > 0 else ""
    return f"; choose one of {', '.join(map(_short, names[:_MOST_NAMES]))}{more}.{hint}"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."


def plain(text: str, keep: str = "\n") -> str:
    """Return a text without what would steer a terminal: other people's words hold anything.

    Letters that cannot be shown are written as Python writes them; those in `keep` stay.
    """
    shown = (c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)
    return "".join(shown)
