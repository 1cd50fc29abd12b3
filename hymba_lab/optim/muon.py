"""Muon for the maps between channels, AdamW for everything else, as one optimizer."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hymba_lab.optim.optimizers import Beta, matrices, optimizers
from hymba_lab.optim.rates import Rate, peak


class Several(torch.optim.Optimizer):
    """Optimizers of different parameters behind one: groups, state and steps of all of them."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let the parts read and write the groups and the state that this one shows."""
        first = 0
        for part in self.parts:
            count = len(part.param_groups)
            part.param_groups = self.param_groups[first : first + count]
            part.state = self.state
            first += count

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load groups and state, for the parts as well."""
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step of every part."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss


@optimizers.register("muon")
def muon(
    model: nn.Module,
    *,
    lr: Rate = 1e-3,
    adamw_lr: Rate | None = None,
    momentum: Beta = 0.95,
    ns_steps: Annotated[int, Field(ge=1, le=2**24)] = 5,
    adjust: Literal["match_rms_adamw", "original"] = "match_rms_adamw",
    betas: Annotated[list[Beta], Field(min_length=2, max_length=2)] = [0.9, 0.95],
    eps: Annotated[float, Field(gt=0)] = 1e-8,
    weight_decay: Annotated[float, Field(ge=0)] = 0.1,
) -> Several:
    """Momentum made orthogonal by Newton-Schulz steps: w <- w - lr (O + weight_decay w).

    For the weights of linear maps between channels. Embedding, head, vectors, convolutions and
    decays stay with AdamW at `adamw_lr` (null = lr), without decay. `adjust: match_rms_adamw`
    scales a step to the size that AdamW's has, so that both take one rate (arXiv:2502.16982).
    """
    inner = inner_matrices(model)
    chosen = {id(weight) for weight in inner}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    rate = peak(lr, model)
    other = rate if adamw_lr is None else peak(adamw_lr, model)
    parts: list[torch.optim.Optimizer] = []
    if inner:
        parts.append(
            torch.optim.Muon(
                inner, rate, weight_decay, momentum, ns_steps=ns_steps, adjust_lr_fn=adjust
            )
        )
    fused = all(p.device.type in ("cpu", "cuda") for p in rest)
    group = [{"params": rest, "weight_decay": 0.0}]
    pair = (betas[0], betas[1])
    parts.append(torch.optim.AdamW(group, lr=other, betas=pair, eps=eps, fused=fused))
    return Several(parts)


def inner_matrices(model: nn.Module) -> list[Tensor]:
    """Return the weights of linear maps inside the model: neither embedding's nor head's."""
    head = getattr(model, "head", None)
    outside = {id(p) for p in head.parameters()} if isinstance(head, nn.Module) else set()
    return [weight for weight in matrices(model) if id(weight) not in outside]
