"""What runs on this machine, and why nothing faster does: for the doctor and for a run's record."""

from typing import TypedDict

import torch

from hymba_lab.ops import kernels
from hymba_lab.ops.selection import OPERATIONS, Operation


class Status(TypedDict):
    """What runs (`chosen`), what could (`available`), and what to do about the rest.

    `title` and `meanings` say in words what the operation and its implementations are.
    """

    title: str
    meanings: dict[str, str]
    chosen: str
    available: list[str]
    unavailable: dict[str, str]


def backends() -> dict[str, Status]:
    """The state of every operation's implementations on this machine.

    `chosen` is what a float32 sequence takes here, on the GPU if there is one; heads whose width
    is no multiple of 8 take torch's attention. Every operation's variable forces one, e.g.
    HYMBA_LAB_SCAN=torch.
    """
    return {name: _status(operation) for name, operation in OPERATIONS.items()}


def chosen() -> dict[str, str]:
    """What a run is tagged with: the scan, the attention, and the build of their kernels."""
    return {
        "scan_backend": _with_build(_status(OPERATIONS["selective_scan"])["chosen"]),
        "attention_backend": _with_build(_status(OPERATIONS["attention"])["chosen"]),
    }


def _status(operation: Operation) -> Status:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reasons = {}
    for name, one in operation.implementations.items():
        elsewhere = None if device in one.devices else f"it serves {' and '.join(one.devices)} only"
        reasons[name] = one.missing() or elsewhere
    available = [name for name, reason in reasons.items() if reason is None]
    return Status(
        title=operation.title,
        meanings={name: one.meaning for name, one in operation.implementations.items()},
        chosen=operation.forced() or available[0],
        available=available,
        unavailable={name: reason for name, reason in reasons.items() if reason is not None},
    )


def _with_build(name: str) -> str:
    return f"cpp {kernels.variant()}" if name == "cpp" else name
