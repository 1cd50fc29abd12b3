"""Memory that one device needs to train a configuration [bytes], an estimate."""

from dataclasses import dataclass

from hymba_lab.config import Config
from hymba_lab.cost.activations import activation_bytes
from hymba_lab.cost.layers import folded_model
from hymba_lab.cost.model import count
from hymba_lab.model import LanguageModel
from hymba_lab.ops.cross_entropy import LEAST_ROWS
from hymba_lab.ops.cross_entropy import rows_at_once as logit_rows

EXACT = 4
"""Bytes of a float32 value: weight, gradient and AdamW's two moments are four of them."""


@dataclass(frozen=True)
class DeviceMemory:
    """What lies on one device when the backward pass over `rows` rows begins."""

    rows: int
    state: int  # weights, gradients and AdamW's moments, the device's part where they are sharded
    activations: int
    working: int  # gathered weights, gradients in flight (a block's, the head's), a chunk of logits

    @property
    def total(self) -> int:
        """All of it together."""
        return self.state + self.activations + self.working


def device_memory(config: Config, vocab: int) -> DeviceMemory:
    """Estimate a training step's memory on each of `training.devices`.

    `micro_rows: auto` is counted as one row, the least. Left out are temporary buffers inside an
    operation, fragmentation and what torch itself takes (on a GPU about half a GB).
    """
    training, model = config.training, folded_model(config.model, vocab)
    blocks = sorted(map(count, model.blocks))  # equal layers are one module, counted once below
    once = sum(map(count, dict.fromkeys(model.blocks)))
    params, low = count(model) - once + sum(blocks), training.precision != "fp32"
    rows = rows_at_once(config)
    shared = training.devices if training.shard or training.precision == "bf16-true" else 1
    sharded = training.shard or training.precision == "bf16-true"
    working = EXACT * model.head_weight.numel()
    if low:  # logits, their float32 form and its softmax
        working += (2 + 2 * EXACT) * vocab * min(rows * training.seq_len, logit_rows(vocab, "cuda"))
    else:
        working += EXACT * LEAST_ROWS * vocab
    if sharded:  # root and two blocks in one piece: the one computed and the one fetched ahead
        gathered = params - sum(blocks) + sum(blocks[-2:])
        working += (2 if training.precision == "bf16-true" else EXACT) * gathered
    elif low:
        working += 2 * params  # autocast's copies of the weights
    kept = activation_bytes(config.model, vocab, training.seq_len, training.precision)
    working += rows * kept // len(model.plan)  # the backward of a block makes about what it kept
    if training.recompute:
        kept = _recomputed(config, model, kept)
    return DeviceMemory(rows, 4 * EXACT * params // shared, rows * kept, working)


def rows_at_once(config: Config) -> int:
    """Return the rows that a device computes at a time."""
    training = config.training
    if training.micro_rows == "auto":
        return 1
    mine = sum(-(-rows // training.devices) for rows in _rows(config))
    return min(training.micro_rows or mine, mine)


def _rows(config: Config) -> list[int]:
    return [int(source.options()["rows"]) for source in config.data.values()]


def _recomputed(config: Config, model: LanguageModel, kept: int) -> int:
    """The stream and shared keys and values between blocks, and the insides of one block."""
    training = config.training
    width = EXACT if training.precision == "fp32" else 2
    n_tokens = training.seq_len + (model.meta.n_meta if model.meta else 0)
    between = model.embedding.embedding_dim
    for layer in model.plan:
        heads = layer.heads.attention
        if heads is not None and any(other.kv_from == layer.index for other in model.plan):
            between += heads.n_kv_heads * (heads.d_head + heads.d_head_v) // len(model.plan)
    return int(width * n_tokens * between * len(model.plan) + kept / len(model.plan))
