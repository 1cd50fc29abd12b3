"""The forward and backward pass of a part as one CUDA graph: no time passes between its kernels.

A large GPU computes a layer of some hundred million parameters faster than Python starts its
kernels; a graph is started once for all of them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hymba_lab.model import LanguageModel
from hymba_lab.training.parts import Part
from hymba_lab.training.scoring import Scored, by_label, linear_loss, shares

Capture = Callable[[Callable[[], None]], Callable[[], None]]


def can_capture(device: torch.device) -> bool:
    """Whether what runs on the device can be recorded."""
    return device.type == "cuda"


def captured(run: Callable[[], None]) -> Callable[[], None]:
    """Record what `run` starts on the GPU; return what starts it again, on the same memory.

    Weights rounded for autocast are kept inside a step: none may be shared with a recording.
    """
    torch.clear_autocast_cache()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    torch.clear_autocast_cache()
    return graph.replay


class PartGraph:
    """Adds the gradients of parts with as many tokens to those that are there.

    The first step is computed as ever: it compiles kernels and gives the gradients their memory,
    which must be kept from the second on (`zero_grad(set_to_none=False)` while `is_made`). Steps
    with parts of another size or with borders of documents are never taken. Whatever is scored, a
    graph has a place for every position; a place that is not used has no share in the loss.
    """

    def __init__(self, model: LanguageModel, capture: Capture = captured) -> None:
        """`capture` records a function and returns what repeats it."""
        self._model, self._capture = model, capture
        self._shape: torch.Size | None = None
        self._replay: Callable[[], None] | None = None

    @property
    def is_made(self) -> bool:
        """Whether the gradients' memory belongs to a graph."""
        return self._replay is not None

    def takes(self, parts: list[Part]) -> bool:
        """Whether a step like this one was computed before."""
        shapes = {part.scored.tokens.shape for part in parts}
        if len(shapes) > 1 or any(part.scored.starts is not None for part in parts):
            return False
        (shape,) = shapes
        if self._shape is None:
            self._shape = shape
            return False
        return shape == self._shape

    def run(self, part: Part, whole: list[int]) -> tuple[Tensor, Tensor]:
        """Return the part's share of the loss and of its labels'; its gradient has been added."""
        given = (*part.scored[:3], shares(part.counts, whole, part.scored.at.device))
        if self._replay is None:
            self._inputs = _places(*given)
            self._replay = self._capture(self._compute)
        for place, tensor in zip(self._inputs, given, strict=True):
            place.view(-1)[: tensor.numel()].copy_(tensor.view(-1))
        self._inputs[3][len(part.scored.at) :].zero_()
        self._replay()
        each = self._each[: len(part.scored.at)]
        return self._loss.clone(), by_label(each, part.counts, whole)

    def _compute(self) -> None:
        tokens, at, targets, share = self._inputs
        loss, self._each = linear_loss(self._model, Scored(tokens, at, targets), share)
        with torch.autocast(loss.device.type, enabled=False):
            loss.backward()  # type: ignore[no-untyped-call]
        self._loss = loss.detach()


def _places(tokens: Tensor, *scored: Tensor) -> list[Tensor]:
    """Memory for a part that scores all positions; what is given of at, targets, share is in it."""
    wide = [one.new_zeros(tokens.numel()) for one in scored]
    return [tokens.clone(), *wide]
