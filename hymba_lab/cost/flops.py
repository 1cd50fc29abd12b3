"""FLOPs per part, counted by torch on the meta device; a multiply-add is two.

Counted: matrix products, convolutions, scans (9 per state) and attention over the pairs of query
and key that are really visible: window, meta tokens and sharing count as they are. Not counted:
norms, activations, residual sums and the softmax, of order 1/width.
"""

from collections import Counter

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hymba_lab.cost.model import PARTS, part_of
from hymba_lab.model import LanguageModel

BACKWARD = 2  # FLOPs of a backward pass over those of its forward pass


def forward_flops(model: LanguageModel, n_tokens: int) -> dict[str, int]:
    """Return the FLOPs of every part in one pass over `n_tokens` tokens behind the meta tokens.

    `model` stands on the meta device. The logits of all tokens are computed.
    """
    tokens = torch.zeros(1, n_tokens, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens)
    totals = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    return _by_part(model, totals)


def decoding_flops(model: LanguageModel, context: int) -> dict[str, int]:
    """Return the FLOPs of every part for one token with `context` >= 1 tokens before it.

    In a causal model that is what one more token adds to a pass over the whole text: projections
    once, attention over the keys it sees, one step of the scan.
    """
    before, after = forward_flops(model, context), forward_flops(model, context + 1)
    return {part: after[part] - before[part] for part in PARTS}


def _by_part(model: LanguageModel, totals: dict[str, int]) -> dict[str, int]:
    """Return the FLOPs by part from those of modules, each holding its children's.

    What the model does outside its modules, the product with a tied embedding, is the head's.
    """
    found: Counter[str] = Counter()
    for index, block in enumerate(model.blocks):
        for inner, module in block.named_children():
            name = f"blocks.{index}.{inner}"
            found[part_of(name)] += _called(totals, f"LanguageModel.{name}", module)
        for branch in ("attention", "ssm"):  # out of the mixer's, into their own
            flops = totals.get(f"LanguageModel.blocks.{index}.mixer.{branch}", 0)
            found[branch] += flops
            found["fusion"] -= flops
    found["head"] = totals.get("Global", 0) - sum(found.values())
    return {part: found[part] for part in PARTS}


def _called(totals: dict[str, int], name: str, module: nn.Module) -> int:
    """Return a module's FLOPs, or its children's where the block calls them one by one."""
    if name in totals:
        return totals[name]
    return sum(totals.get(f"{name}.{child}", 0) for child, _ in module.named_children())
