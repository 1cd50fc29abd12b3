"""Whether a component from elsewhere returns what the model needs, before anything is trained."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from hymba_lab.errors import ConfigError, last_line
from hymba_lab.model.memory import foreign

if TYPE_CHECKING:
    from hymba_lab.model.block import Block
    from hymba_lab.model.language_model import LanguageModel

N_TOKENS = 4


def refuse_wrong_outputs(model: "LanguageModel") -> None:
    """Raise `ConfigError` that names a component which fails or returns another shape.

    One forward pass on the device of the model, the meta device as a rule, is watched. A model
    without components from elsewhere is not tried.
    """
    parts = [part for part in _parts(model) if foreign(part[1])]
    if not parts:
        return
    running: list[tuple[str, nn.Module]] = []
    with ExitStack() as stack:
        for axis, module, width in parts:
            before = module.register_forward_pre_hook(
                lambda module, _, axis=axis: running.append((axis, module))
            )
            after = module.register_forward_hook(_after(axis, width, running))
            stack.callback(before.remove)
            stack.callback(after.remove)
        try:
            with torch.no_grad():
                model(torch.zeros(1, N_TOKENS, dtype=torch.long, device=model.head_weight.device))
        except ConfigError:
            raise
        except Exception as error:
            if not running:
                raise
            axis, module = running[-1]
            raise ConfigError(
                f"{type(module).__name__}.forward raised {type(error).__name__}: {error}"
                f"{_line(module, error)}; it is tried without memory, "
                "on the meta device; `hymba-lab check` tries it by itself.",
                axis,
            ) from error


def _parts(model: "LanguageModel") -> Iterator[tuple[str, nn.Module, int]]:
    """Yield axis, module and width of the output of what an axis makes."""
    for layer, block in zip(model.plan, cast("list[Block]", list(model.blocks)), strict=True):
        heads, d_model = layer.heads, model.embedding.embedding_dim
        widths = {
            "attention": heads.attention.d_out if heads.attention else 0,
            "ssm": heads.d_inner or 0,
            "fusion": d_model,
            "mlp": d_model,
        }
        for name, width in widths.items():
            part = getattr(block if name == "mlp" else block.mixer, name, None)
            if isinstance(part, nn.Module):
                yield f"model.{name}", part, width


def _after(axis: str, width: int, running: list[tuple[str, nn.Module]]) -> Callable[..., None]:
    def after(module: nn.Module, _: Any, output: Any) -> None:
        _check(axis, module, output, width)
        running.pop()

    return after


def _check(axis: str, module: nn.Module, output: Any, width: int) -> None:
    name = type(module).__name__
    y = output
    if axis == "model.attention":
        if not isinstance(output, tuple) or len(output) != 2:
            raise ConfigError(
                f"{name}.forward returned {_said(output)}; an attention returns its output and "
                "(k, v), the keys and values it used.",
                axis,
            )
        y = output[0]
    if not isinstance(y, Tensor) or y.ndim != 3 or y.shape[2] != width:
        raise ConfigError(
            f"{name}.forward returned {_said(y)}; (B, T, {width}) is needed here.", axis
        )


def _said(output: Any) -> str:
    return f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else repr(output)[:80]


def _line(module: nn.Module, error: BaseException) -> str:
    """Return the last line of the component's own file that the error passed."""
    file = getattr(sys.modules.get(type(module).__module__), "__file__", None)
    passed = last_line(error, {str(file)})
    return f" ({passed[0]}:{passed[1]})" if passed else ""
