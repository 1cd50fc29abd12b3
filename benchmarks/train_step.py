"""One training step of our Hymba and of the models of transformers that come closest to it.

    pip install -e '.[bench]'
    python benchmarks/train_step.py [--tokens 256 1024] [--sides llama falcon_h1 jamba ...] [--json]

Four layers of width 256, batch 4, float32, random tokens; forward, backward and fused AdamW. Every
peer has our number of parameters within 1 %: its MLP is as wide as that takes. Ours is placed as in
the paper: full attention in the first, middle and last layer, a window of 256 in the other one,
16 meta tokens, keys and values shared by neighbours. All processes keep freed memory as ours do
while training. Ratios: time of the side through time of ours.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from pairs import Side, Step, Table, compare, parser, show
from torch import Tensor, nn
from train_peers import D_MODEL, N_LAYERS, PEERS, VOCAB, peer_of

from hymba_lab.config import from_resolved
from hymba_lab.cost import count, meta_model
from hymba_lab.model import build_model
from hymba_lab.training.memory import keep_memory
from hymba_lab.training.scoring import Scored, batch_loss

BATCH = 4
D_FF = 832  # 3.25 d_model, as in the paper's 125M
OURS = {"bf16-mixed": ("bf16-mixed",), "compiled": ("fp32", True)}
LIMITS = {
    256: {"llama": 1.0, "falcon_h1": 1.6, "jamba": 50},
    1024: {"llama": 1.2, "falcon_h1": 1.6},
}


def hymba(n_tokens: int, precision: str = "fp32", compiled: bool = False) -> Step:
    """Return our step, through the loss function that training uses."""
    torch.manual_seed(0)
    model = build_model(_config().model, VOCAB)
    features = torch.compile(model.features) if compiled else model.features
    model.features = features  # type: ignore[method-assign]
    at = torch.arange(BATCH * n_tokens)

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            return batch_loss(model, Scored(tokens, at, targets.flatten()), [len(at)])[0]

    return _step(model, n_tokens, loss)


def peer(kind: str, n_tokens: int) -> Step:
    """Return the step of a model of transformers, with the loss that it computes itself."""
    torch.manual_seed(0)
    model = peer_of(kind, count(meta_model(_config().model, VOCAB)))

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        return found

    return _step(model, n_tokens, loss)


def _step(model: nn.Module, n_tokens: int, loss: Callable[[Tensor, Tensor], Tensor]) -> Step:
    keep_memory()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    text = torch.randint(VOCAB, (BATCH, n_tokens + 1))
    tokens, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    figures = {"parameters": float(count(model))}

    def step() -> dict[str, float]:
        loss(tokens, targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        return figures

    return step


def _config() -> Any:
    heads = {"name": "hybrid", "n_heads": 4, "n_kv_heads": 2, "d_head": 64, "expand": 2}
    model = {
        "d_model": D_MODEL,
        "n_layers": N_LAYERS,
        "heads": heads,
        "order": {"name": "parallel"},
        "fusion": {"name": "mean"},
        "meta_tokens": {"name": "learned", "n_meta": 16},
        "placement": {"name": "first_middle_last", "window": 256},
        "kv_sharing": {"name": "adjacent", "size": 2},
        "attention": {"name": "softmax"},
        "ssm": {"name": "mamba1"},
        "mlp": {"name": "swiglu", "d_ff": D_FF},
    }
    training = {"seq_len": 1, "tokens": 1, "val_every": 1}
    data = {"text": {"name": "stdlib", "rows": 1}}
    rest = {
        "data": data,
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "schedule": {"name": "constant"},
    }
    return from_resolved(
        {"name": "hymba", "scale": "benchmark", "model": model, "training": training, **rest}
    )


# ------------------------------------------------------------------ the tables


def main() -> None:
    """Measure every length and print its table."""
    options = parser(__doc__, rounds=7)
    options.add_argument("--tokens", type=int, nargs="+", default=[256, 1024], metavar="N")
    names = [*PEERS, *OURS]
    sides = ["llama", "falcon_h1", "falcon_h1_small_state", "bf16-mixed"]
    options.add_argument("--sides", nargs="+", choices=names, default=sides)
    chosen = options.parse_args()
    show([table(n_tokens, chosen) for n_tokens in chosen.tokens], chosen)


def table(n_tokens: int, chosen: argparse.Namespace) -> Table:
    """Return the comparison at one length."""
    sides = [Side("hymba_lab", hymba, (n_tokens,))]
    for name in chosen.sides:
        if name in OURS:
            sides.append(Side(f"hymba_lab, {name}", hymba, (n_tokens, *OURS[name])))
        else:  # Jamba's step takes tens of seconds: it is made once
            sides.append(Side(name, peer, (name, n_tokens), cold=name == "jamba"))
    outcomes = compare(sides, rounds=chosen.rounds, threads=chosen.threads)
    for outcome in outcomes:
        if outcome.median is not None:
            outcome.figures["tokens/s"] = BATCH * n_tokens / outcome.median
    return Table(f"Step of {BATCH} x {n_tokens} tokens", outcomes, LIMITS.get(n_tokens, {}))


if __name__ == "__main__":
    main()
