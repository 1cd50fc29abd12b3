"""Which weights are trained: all of them, adapters, or a few layers at a time."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import nn

from hymba_lab.config.tuning import Dora, Lisa, Lora
from hymba_lab.errors import ConfigError, suggest


class Share(NamedTuple):
    """How many parameters are trained at a time, beside how many the model has."""

    trained: int
    total: int

    def __str__(self) -> str:
        return f"{self.trained:,} of {self.total:,} parameters trained ({self.fraction:.2%})"

    @property
    def fraction(self) -> float:
        """Their ratio."""
        return self.trained / self.total


def adapter_config(method: Any, model: nn.Module) -> Any:
    """Return peft's configuration of an adapter, None for a method without one.

    Raises `ConfigError` for a target that is no linear map of the model.
    """
    if not isinstance(method, Lora):
        return None
    from peft import LoraConfig

    targets = method.targets if method.targets == "all" else list(method.targets)
    if isinstance(targets, list):
        known = linear_names(model)
        for target in targets:
            if target not in known:
                raise ConfigError(
                    f"method.targets: no linear map {target!r}" + suggest(target, known)
                )
    return LoraConfig(
        r=method.r,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules="all-linear" if targets == "all" else targets,
        use_dora=isinstance(method, Dora),
        bias="none",
        task_type="CAUSAL_LM",
    )


def linear_names(model: nn.Module) -> list[str]:
    """Return what targets may be called: the last name of every linear map but the head's."""
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    return sorted(names - {"lm_head"})


def share_of(method: Any, model: Any) -> Share:
    """Return what a method trains; `model` may be on the meta device, and is given an adapter.

    Raises `ConfigError` where a method's own limit is passed, or it asks for more than there is.
    """
    total = _count(model.parameters())
    if isinstance(method, Lora):
        from peft import get_peft_model

        adapted = get_peft_model(model, adapter_config(method, model))
        share = Share(_count(p for p in adapted.parameters() if p.requires_grad), total)
        if method.at_most is not None and share.fraction > method.at_most:
            raise ConfigError(
                f"method.at_most: {share}; at most {method.at_most:.0%} are allowed: lower r "
                f"({method.r}), or name fewer targets."
            )
        return share
    if isinstance(method, Lisa):
        blocks = sorted((_count(b.parameters()) for b in model.model.net.blocks), reverse=True)
        if method.n_layers > len(blocks):
            raise ConfigError(
                f"method.n_layers: {method.n_layers} blocks at a time; the model has {len(blocks)}."
            )
        return Share(total - sum(blocks) + sum(blocks[: method.n_layers]), total)
    return Share(total, total)


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)
