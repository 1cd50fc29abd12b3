"""What a stage will do, before any weight is read: tokens, steps, parameters, memory."""

import math
from dataclasses import dataclass
from typing import Any

from hymba_lab.config.tuning import Dpo, Full, Lisa, Sft
from hymba_lab.cost.activations import activation_bytes
from hymba_lab.finetune.method import Share, share_of
from hymba_lab.finetune.prepare import Prepared, prepare
from hymba_lab.finetune.start import Start


@dataclass(frozen=True)
class Plan:
    """A stage in numbers; memory [bytes] is an estimate."""

    n_examples: int
    n_rows: int
    n_tokens: int
    n_learned: int
    n_cut: int
    n_dropped: int
    n_steps: int
    share: Share
    state: int  # weights, gradients, AdamW's moments, and DPO's reference
    activations: int

    def lines(self) -> list[str]:
        """Return it as it is shown."""
        gone = f" ({self.n_cut:,} cut, {self.n_dropped:,} left out: longer than seq_len)"
        memory = (self.state + self.activations) / 1e9
        return [
            f"data      {self.n_examples:,} examples in {self.n_rows:,} rows"
            + (gone if self.n_cut or self.n_dropped else ""),
            f"tokens    {self.n_tokens:,} an epoch, of which {self.n_learned:,} are learned",
            f"steps     {self.n_steps:,}",
            f"weights   {self.share}",
            f"memory    about {memory:.2f} GB: {self.state / 1e9:.2f} of weights and optimizer, "
            f"{self.activations / 1e9:.2f} of activations",
        ]


def plan(stage: Sft | Dpo, start: Start) -> tuple[Plan, Prepared]:
    """Return the plan and the rows; raises what the stage itself would raise later."""
    share = share_of(stage.method, start.skeleton())
    data = prepare(stage, start)
    made = Plan(
        data.n_examples,
        data.n_rows,
        data.n_tokens,
        data.n_learned,
        data.n_cut,
        data.n_dropped,
        n_steps(stage, data.n_rows),
        share,
        _state_bytes(stage, share),
        _activation_bytes(stage, start.skeleton()),
    )
    return made, data


def n_steps(stage: Sft | Dpo, n_rows: int) -> int:
    """Return the optimizer steps; the last one of an epoch may have fewer rows."""
    steps = max(1, math.ceil(stage.epochs * math.ceil(n_rows / stage.rows)))
    return min(steps, stage.max_steps or steps)


def _state_bytes(stage: Sft | Dpo, share: Share) -> int:
    """Adapters and their moments are float32 in either precision."""
    width = 2 if stage.precision == "bf16-true" else 4
    within = isinstance(stage.method, Full | Lisa)
    weights = share.total * width
    if not within:
        weights += share.trained * 4
    learned = share.trained * 3 * (width if within else 4)
    rounded = 2 * share.total if stage.precision == "bf16-mixed" else 0  # autocast's copies
    reference = share.total * width if isinstance(stage, Dpo) and within else 0
    return weights + learned + rounded + reference


def _activation_bytes(stage: Sft | Dpo, skeleton: Any) -> int:
    """Those of full rows; a batch of packed rows whose documents differ in length takes more."""
    net = skeleton.model.net
    vocab = net.embedding.num_embeddings
    rows = stage.micro_rows * (2 if isinstance(stage, Dpo) else 1)
    kept = activation_bytes(net.config, vocab, stage.seq_len, stage.precision)
    n_blocks = len(net.plan)
    if stage.recompute:
        width = 4 if stage.precision == "fp32" else 2
        n_tokens = stage.seq_len + (net.meta.n_meta if net.meta else 0)
        kept = width * n_tokens * net.embedding.embedding_dim * n_blocks + kept // n_blocks
    return rows * kept
