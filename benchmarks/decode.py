"""Decoding against the memory's bandwidth: tokens/s of the published shape with random weights.

    python benchmarks/decode.py [config.json] --tokens 16 --threads 2

One token reads every weight once (the tied head reads the embedding), so bytes of the weights over
the bandwidth is the least time a token can take. A pass that only reads the weights is timed before
and after every token. On a shared machine the bandwidth changes from second to second, by a factor
of two: each token is therefore compared with the reads on its two sides, and the median is the
result. Weights are made one by one in their final precision: there is no other copy of them.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from hymba_lab.checkpoints.hf_checkpoint import meta_model
from hymba_lab.checkpoints.hf_config import read_released
from hymba_lab.model import LanguageModel
from hymba_lab.ops import selective_scan_step

PUBLISHED = Path(__file__).parents[1] / "tests/data/hymba_1p5b_config.json"


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, nargs="?", default=PUBLISHED)
    parser.add_argument("--prompt", type=int, default=64, help="tokens [default: 64]")
    parser.add_argument("--tokens", type=int, default=16, help="decoding steps [default: 16]")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = random_model(options.config, getattr(torch, options.dtype))
    weights = sum(p.nbytes for p in model.parameters())
    cache = model.cache(1, options.prompt + options.tokens).nbytes
    steps, reads = decode(model, options.prompt, options.tokens)
    around = [(before + after) / 2 for before, after in pairwise(reads)]
    shares = [read / step for read, step in zip(around, steps, strict=True)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    print(
        json.dumps(
            {
                "weights_gb": round(weights / 1e9, 3),
                "cache_mb": round(cache / 1e6, 3),
                "peak_rss_gb": round(peak / 1e9, 3),
                "peak_above_weights_and_cache_gb": round((peak - weights - cache) / 1e9, 3),
                "bandwidth_gb_per_s": spread([weights / read / 1e9 for read in reads]),
                "tokens_per_s": spread([1 / step for step in steps]),
                "share_of_bandwidth": spread(shares),
                "scan_step_us": round(scan_step_us(model), 1),
                "threads": options.threads,
                "dtype": options.dtype,
            },
            indent=1,
        )
    )


def random_model(path: Path, dtype: torch.dtype) -> LanguageModel:
    """Return the model of a released configuration; norms are 1, all else uniform and small."""
    model = meta_model(read_released(path)[0], path).eval()
    for module in model.modules():
        for name, ghost in list(module.named_parameters(recurse=False)):
            tensor = torch.empty(ghost.shape, dtype=dtype)
            made = tensor.fill_(1) if tensor.ndim == 1 else tensor.uniform_(-0.03, 0.03)
            setattr(module, name, nn.Parameter(made, requires_grad=False))
    return model


def read(model: LanguageModel) -> None:
    """Read every weight once and do next to nothing with it."""
    for parameter in model.parameters():
        plain = parameter.detach().flatten()
        plain[: len(plain) // 4 * 4].view(torch.int64).sum()  # 4 values of 16 bits at a time


@torch.no_grad()
def decode(model: LanguageModel, n_prompt: int, n_steps: int) -> tuple[list[float], list[float]]:
    """Return the seconds of every greedy step after a random prompt, and of reads around them."""
    tokens = torch.randint(0, model.embedding.num_embeddings, (1, n_prompt))
    stream = model.stream(tokens, max_new_tokens=n_steps + 2)
    next(stream)  # reads the prompt
    next(stream)  # the first step makes what later ones find made
    steps, reads = [], [seconds(lambda: read(model))]
    for _ in range(n_steps):
        steps.append(seconds(lambda: next(stream)))
        reads.append(seconds(lambda: read(model)))
    return steps, reads


@torch.no_grad()
def scan_step_us(model: LanguageModel) -> float:
    """Return the median microseconds of one step of a layer's scan, its state in cache."""
    d_inner, d_state = model.plan[0].heads.d_inner or 0, model.config.ssm.options()["d_state"]
    x, dt, z = (torch.randn(1, d_inner) for _ in range(3))
    B, C = (torch.randn(1, d_state) for _ in range(2))
    A, h = -torch.rand(d_inner, d_state), torch.zeros(1, d_inner, d_state)
    D = torch.ones(d_inner)
    return 1e6 * statistics.median(
        seconds(lambda: selective_scan_step(x, dt, A, B, C, D, z=z, dt_bias=D, h=h, out=h))
        for _ in range(2000)
    )


def seconds(run: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def spread(values: list[float]) -> dict[str, float]:
    """Return median, least and most."""
    found = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


if __name__ == "__main__":
    main()
