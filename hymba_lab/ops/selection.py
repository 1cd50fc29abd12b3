"""The implementations of every operation: which one runs, and why another one does not."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hymba_lab.errors import UserError

DEVICES = ("cpu", "cuda")


def _never() -> str | None:
    return None


def _always(*inputs: Any) -> bool:
    return True


@dataclass(frozen=True)
class Implementation:
    """One way to compute an operation, and what it needs.

    `run` computes it. `missing()` says why it cannot run on this machine and what to do about it,
    None when it can. `takes(*inputs)` tells whether it serves these inputs, in words `inputs`;
    `devices` are those whose tensors it can serve at all.
    """

    run: Callable[..., Any]
    meaning: str  # what it is, for a reader of the doctor's page
    inputs: str = "any tensor"
    missing: Callable[[], str | None] = _never
    takes: Callable[..., bool] = _always
    devices: tuple[str, ...] = DEVICES


OPERATIONS: "dict[str, Operation]" = {}
"""Every operation by its name, in the order in which they were made."""


class Operation:
    """The implementations of one operation, fastest first; the last takes everything.

    The environment variable `variable` forces one by its name.
    """

    def __init__(
        self, name: str, title: str, variable: str, implementations: Mapping[str, Implementation]
    ) -> None:
        """`title` is the operation's name for a reader."""
        self.name, self.title, self.variable = name, title, variable
        self.implementations = dict(implementations)
        OPERATIONS[name] = self

    def choose(self, *inputs: Any) -> str:
        """Return the name of the implementation for these inputs; the first is a tensor.

        Raises `UserError` where a forced one cannot run or does not take them.
        """
        if not os.environ.get(self.variable) and not torch.compiler.is_compiling():
            for name, one in self.implementations.items():
                if one.takes(*inputs) and one.missing() is None:
                    return name
        fitting = tuple(name for name, one in self.implementations.items() if one.takes(*inputs))
        leading: Tensor = inputs[0]
        chosen: str = _pick(self.name, fitting, leading.dtype, leading.device.type)
        return chosen

    def run(self, *inputs: Any) -> Callable[..., Any]:
        """Return the function that computes the operation for these inputs."""
        return self.implementations[self.choose(*inputs)].run

    def forced(self) -> str | None:
        """Return the implementation that the environment asks for; None when it does not."""
        name = os.environ.get(self.variable) or None
        if name is None:
            return None
        if name not in self.implementations:
            allowed = ", ".join(self.implementations)
            raise UserError(f"{self.variable}={name}: no such implementation; allowed: {allowed}")
        reason = self.implementations[name].missing()
        if reason is not None:
            raise UserError(
                f"{self.variable}={name} cannot run: {reason}; or unset {self.variable}"
            )
        return name


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _pick(operation: str, fitting: tuple[str, ...], dtype: torch.dtype, device: str) -> str:
    """The forced one, else the first of the fitting ones that can run; no part of a graph."""
    chosen = OPERATIONS[operation]
    name = chosen.forced()
    if name is None:
        return next(one for one in fitting if chosen.implementations[one].missing() is None)
    if name not in fitting:
        raise UserError(
            f"{chosen.variable}={name}: it takes {chosen.implementations[name].inputs}; given "
            f"{dtype} on {device}; unset {chosen.variable}"
        )
    return name
