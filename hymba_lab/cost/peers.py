"""Transformer peers of the paper's table 2, from a file of shapes.

Columns: model, n_layers, d_model, n_heads, n_kv_heads, d_head, mlp, d_ff, vocab, tied_embeddings.
`n_kv_heads` is one number, or for layers that differ `count*heads` terms ("3*4 25*8"); such a
peer, or one with an empty cell, has its cache but no configuration. Biases are not in the file.
The shapes are those of the models' own published configurations; the paper prints only the caches,
which they reproduce.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from hymba_lab.atomic import text_of
from hymba_lab.config import Config, from_resolved
from hymba_lab.errors import ConfigError, UserError

_COLUMNS = (
    "model", "n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "mlp", "d_ff", "vocab",
    "tied_embeddings",
)  # fmt: skip

_TRAINING = {"seq_len": 2048, "tokens": 2048, "val_every": 1, "precision": "bf16-mixed"}


@dataclass(frozen=True)
class Peer:
    """One model: keys and values per layer, and a configuration where its layers are alike."""

    name: str
    kv_heads: list[int]  # per layer
    d_head: int
    config: Config | None

    def cache_bytes(self, n_tokens: int) -> int:
        """Return the bytes of keys and values of `n_tokens`, in FP16."""
        return 2 * n_tokens * sum(self.kv_heads) * 2 * self.d_head


def read_peers(path: Path) -> list[Peer]:
    """Read the file; `UserError` names the line that does not fit."""
    try:
        reader = csv.DictReader(io.StringIO(text_of(path), newline=""))
        rows, given = list(reader), reader.fieldnames or ()
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {error}.") from None
    missing = [name for name in _COLUMNS if name not in given]
    if missing:
        raise UserError(f"{path}:1: no column {', '.join(missing)}; see analysis/paper/peers.csv.")
    peers = []
    for line, row in enumerate(rows, start=2):
        try:
            peers.append(_peer(row))
        except (ValueError, TypeError, ConfigError) as error:
            raise UserError(f"{path}:{line}: {row['model']}: {error}") from None
    return peers


def _peer(row: dict[str, str]) -> Peer:
    n_layers, d_head = int(row["n_layers"]), int(row["d_head"])
    terms = [term.split("*") for term in row["n_kv_heads"].split()]
    kv_heads = [int(term[-1]) for term in terms for _ in range(int(term[0]) if term[1:] else 1)]
    if len(terms) == 1 and len(terms[0]) == 1:
        kv_heads = kv_heads * n_layers
    if len(kv_heads) != n_layers:
        raise ValueError(
            f"n_kv_heads {row['n_kv_heads']!r} is for {len(kv_heads)} layers, not {n_layers}"
        )
    complete = len(set(kv_heads)) == 1 and all(row[name] for name in _COLUMNS)
    return Peer(row["model"], kv_heads, d_head, _config(row, kv_heads[0]) if complete else None)


def _config(row: dict[str, str], n_kv_heads: int) -> Config:
    """Return a configuration that can be built and run with random weights."""
    heads = {name: int(row[name]) for name in ("n_heads", "d_head")}
    none = {"name": "none"}
    model = {
        "d_model": int(row["d_model"]),
        "n_layers": int(row["n_layers"]),
        "vocab": int(row["vocab"]),
        "tie_embeddings": row["tied_embeddings"] == "yes",
        "heads": {"name": "attention_only", "n_kv_heads": n_kv_heads, **heads},
        "order": {"name": "parallel"},
        "fusion": {"name": "mean"},
        "meta_tokens": none,
        "placement": {"name": "all_full"},
        "kv_sharing": none,
        "attention": {"name": "softmax"},
        "ssm": {"name": "mamba1"},
        "mlp": {"name": row["mlp"], "d_ff": int(row["d_ff"])},
    }
    return from_resolved(
        {
            "name": row["model"],
            "scale": "peer",
            "model": model,
            "data": {"text": {"name": "stdlib", "rows": 1}},
            "optimizer": {"name": "adamw", "lr": 1e-3},
            "schedule": {"name": "constant"},
            "training": {**_TRAINING},
        }
    )  # fmt: skip
