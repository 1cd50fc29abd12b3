"""Scan, attention and training on a GPU: `benchmarks/gpu.sh` says what it needs and writes.

Every time is the median of several runs between CUDA events, after a warm-up.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import chain, product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hymba_lab.config import Config, load_config
from hymba_lab.cost import measure_costs
from hymba_lab.cost.cards import peak_flops
from hymba_lab.cost.flops import BACKWARD
from hymba_lab.cost.memory import device_memory
from hymba_lab.ops import scan_triton
from hymba_lab.ops.attention_flex import flex_attention
from hymba_lab.ops.masks import attention_mask
from hymba_lab.ops.scan import SCAN
from hymba_lab.runs.provenance import commit
from hymba_lab.training.fit import fit

SCANS = ((8, 2048, 2048, 16), (4, 8192, 3200, 16), (8, 2048, 2048, 64))  # B, T, D, N
ATTENTION = (4, 25, 5, 2176, 64, 128, 1025, 128)  # B, H, K, T, P, V, window, meta tokens
VOCAB, SEQ_LEN, N_STEPS = 32001, 2048, 6
MOST_S = 240  # of a process that trains: whole blocks may take long to compile
PLAIN = {f"HYMBA_LAB_{name}": "torch" for name in ("ROTATION", "SWIGLU", "CONV")}
SIDES: dict[str, tuple[list[str], dict[str, str]]] = {  # arguments and environment of a process
    "fused": ([], {}),
    "torch": ([], PLAIN),
    "compiled": (["--compiled"], {}),
}


def main() -> None:
    """Measure what was asked for and write one page."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    made.add_argument("--out", type=Path, default=Path("results"))
    made.add_argument("--tests", default="not run")
    made.add_argument("--commit", default=commit().sha, help="of a copy without its repository")
    made.add_argument("--train", metavar="SHAPE", help="train this shape here, print its figures")
    made.add_argument("--compiled", action="store_true", help="with --train: whole blocks")
    made.add_argument("--profile", type=Path, help="with --train: where its kernels' times go")
    options = made.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        made.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if options.train:
        train(options.train, options.compiled, options.profile)
        return
    name = torch.cuda.get_device_name()
    first = [
        f"# Figures on {name}", "",
        f"`bash benchmarks/gpu.sh`, commit {options.commit[:10]}, torch {torch.__version__}, "
        f"CUDA {torch.version.cuda}. Tests marked gpu: {options.tests}", "",
    ]  # fmt: skip
    lines = (PARTS[part](name, options.out) for part in options.parts or PARTS)
    path = options.out / f"gpu-{name.replace(' ', '_')}.md"
    with path.open("w", encoding="utf-8") as page:  # line by line: a run cut short leaves its part
        for line in chain(first, *lines):
            print(line, flush=True)
            print(line, file=page, flush=True)
    print(f"written: {path}")


def milliseconds(run: Callable[[], object], rounds: int = 20) -> float:
    """Return the median time of `run` [ms]."""
    for _ in range(3):
        run()
    times = []
    for _ in range(rounds):
        begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return float(statistics.median(times))


def bandwidth() -> float:
    """Return the bytes a second that a copy of 1 GiB moves: read once, written once."""
    source = torch.empty(2**28, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / milliseconds(lambda: target.copy_(source)) * 1e3


def scan_lines() -> Iterator[str]:
    """The scan of every implementation that is there, and the time its bytes take to move."""
    rate = bandwidth()
    yield f"## Selective scan, bf16, memory moves {rate / 1e12:.2f} TB/s"
    yield ""
    yield "| B, T, D, N | scan | forward ms | of limit | forward + backward ms | of limit |"
    yield "|---|---|---|---|---|---|"
    for shape in SCANS:
        inputs = scan_inputs(*shape)
        limits = [n_bytes / rate * 1e3 for n_bytes in scan_bytes(*shape)]
        for name, one in SCAN.implementations.items():
            if name not in ("triton", "cuda") or one.missing() is not None:
                continue
            alone, whole = scan_times(one.run, inputs)
            yield (f"| {shape} | {name} | {alone:.3f} | {alone / limits[0]:.2f} | {whole:.3f} | "
                   f"{whole / limits[1]:.2f} |")  # fmt: skip
    reason = SCAN.implementations["cuda"].missing()
    yield ""
    if reason:
        yield f"mamba-ssm was not compared: {reason}"
        yield ""


def scan_times(
    scan: Callable[..., tuple[Tensor, Tensor]], inputs: list[Tensor]
) -> tuple[float, float]:
    """Return the time of the forward pass alone and of it with its backward [ms]."""

    def forward() -> Tensor:
        return scan(*inputs, None)[0]

    def both() -> None:
        y = forward()
        torch.autograd.grad(y, inputs, torch.ones_like(y))

    with torch.no_grad():
        alone = milliseconds(forward)
    return alone, milliseconds(both)


def scan_inputs(n_batch: int, n_time: int, n_channels: int, n_states: int) -> list[Tensor]:
    """x, dt, A, B, C, D, z, dt_bias as a layer gives them."""
    torch.manual_seed(0)
    wide, narrow = (n_batch, n_time, n_channels), (n_batch, n_time, n_states)
    low = [
        torch.randn(s, device="cuda", dtype=torch.bfloat16) for s in (wide, wide, narrow, narrow)
    ]
    A = -torch.arange(1.0, n_states + 1, device="cuda").repeat(n_channels, 1)
    D, bias = torch.ones(n_channels, device="cuda"), torch.full((n_channels,), -4.0, device="cuda")
    z = torch.randn(wide, device="cuda", dtype=torch.bfloat16)
    x, dt, B, C = low
    return [tensor.requires_grad_() for tensor in (x, dt, A, B, C, D, z, bias)]


def scan_bytes(n_batch: int, n_time: int, n_channels: int, n_states: int) -> tuple[int, int]:
    """The least bytes a forward pass, and one with its backward, reads and writes."""
    wide, narrow = 2 * n_batch * n_time * n_channels, 2 * n_batch * n_time * n_states
    forward = 4 * wide + 2 * narrow  # x, dt, z, y; B, C
    chunks = -(-n_time // scan_triton.CHUNK)
    states = 4 * n_batch * chunks * n_channels * n_states  # float32, written and read
    return forward, forward + 7 * wide + 6 * narrow + 2 * states


def attention_lines() -> Iterator[str]:
    """Windowed attention with meta tokens: FlexAttention against the mask."""
    n_batch, n_heads, n_kv, n_time, d_key, d_value, window, n_meta = ATTENTION
    made = {"device": "cuda", "dtype": torch.bfloat16, "requires_grad": True}
    q = torch.randn(n_batch, n_heads, n_time, d_key, **made)  # type: ignore[call-overload]
    k = torch.randn(n_batch, n_kv, n_time, d_key, **made)  # type: ignore[call-overload]
    v = torch.randn(n_batch, n_kv, n_time, d_value, **made)  # type: ignore[call-overload]
    mask, scale = attention_mask(q, n_time, window, n_meta, 0), d_key**-0.5

    def masked() -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=scale, enable_gqa=True
        )

    sides = {"FlexAttention": lambda: flex_attention(q, k, v, window, n_meta, scale),
             "mask": masked}  # fmt: skip
    yield f"## Windowed attention, bf16, (B, H, K, T, P, V, window, meta) = {ATTENTION}"
    yield ""
    yield "| implementation | forward ms | forward + backward ms |"
    yield "|---|---|---|"
    for name, run in sides.items():
        with torch.no_grad():
            alone = milliseconds(run)

        def both(run: Callable[[], Tensor] = run) -> None:
            out = run()
            torch.autograd.grad(out, (q, k, v), torch.ones_like(out))

        yield f"| {name} | {alone:.3f} | {milliseconds(both):.3f} |"
    yield ""


def training_lines(name: str, out: Path) -> Iterator[str]:
    """Tokens a second, MFU and peak memory: every shape and side in a process of its own."""
    yield f"## Training, {SEQ_LEN} tokens a row, bf16-mixed, AdamW, {N_STEPS} steps"
    yield ""
    yield "| shape | side | tokens/s | MFU | peak GB | estimate GB | rows at a time |"
    yield "|---|---|---|---|---|---|---|"
    for shape, side in product(("350m", "125m"), SIDES):
        profile = out / f"gpu-profile-{shape}-{side}.txt"
        yield f"| {shape} | {side} | {trained(shape, side, name, profile)} |"
    yield ""
    yield "fused: rotation, SwiGLU and convolution a kernel each; torch: as torch has them;"
    yield "compiled: whole blocks. The times of all kernels: gpu-profile-*.txt beside this page."
    yield ""


def trained(shape: str, side: str, name: str, profile: Path) -> str:
    """Return the figures of one process, or why there are none."""
    extra, environment = SIDES[side]
    command = [sys.executable, __file__, "--train", shape, "--profile", str(profile), *extra]
    try:
        done = subprocess.run(
            command, env=os.environ | environment, capture_output=True, timeout=MOST_S
        )
        said, fault = done.stdout, (done.stderr.decode().strip() or "no word").splitlines()[-1]
    except subprocess.TimeoutExpired as late:
        said, fault = late.stdout or b"", f"no {N_STEPS} steps within {MOST_S} s"
    figures = [line for line in said.decode().splitlines() if line.startswith("{")]
    if not figures:
        return f"{fault[:120]} | | | |"
    found = json.loads(figures[0])
    top = peak_flops(name, "bf16-mixed")
    mfu = f"{found['flops'] / top:.1%}" if top else "peak not known"
    return (
        f"{found['tokens_per_second']:,.0f} | {mfu} | {found['peak']:.1f} | "
        f"{found['estimate']:.1f} | {found['rows']}"
    )


def train(shape: str, compiled: bool, profile: Path | None) -> None:
    """Train a few steps in this process and print the figures; then profile one step more."""
    config = experiment(shape, compiled)
    torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        found = fit(config, seed=0, folder=Path(folder) / "run")
        peak = torch.cuda.max_memory_allocated() / 1e9
        costs, memory = measure_costs(config.model, VOCAB, SEQ_LEN), device_memory(config, VOCAB)
        figures = {
            "tokens_per_second": found.tokens_per_second,
            "flops": found.tokens_per_second * (1 + BACKWARD) * costs.flops_per_token,
            "peak": peak, "estimate": memory.total / 1e9, "rows": memory.rows,
        }  # fmt: skip
        print(json.dumps(figures), flush=True)  # before the profile, which may take too long
        if profile is not None:
            with torch.profiler.profile() as watched:
                fit(experiment(shape, compiled, n_steps=1), seed=0, folder=Path(folder) / "watched")
            averages = watched.key_averages()
            profile.write_text(averages.table(sort_by="self_cuda_time_total", row_limit=60))


def experiment(shape: str, compiled: bool, rows: int = 8, n_steps: int = N_STEPS) -> Config:
    """Return some steps of 64 rows on tokens by Zipf's law, `rows` at a time."""
    tokens = Path(tempfile.gettempdir()) / "hymba_lab_gpu_tokens.npy"
    if not tokens.exists():
        drawn = np.random.default_rng(0).zipf(1.2, 2_000_000) % VOCAB
        np.save(tokens, drawn.astype(np.uint16))
    data = f"{{name: shards, rows: 64, train: {tokens}, val: {tokens}, vocab: {VOCAB}, n_val: 1}}"
    training = {
        "seq_len": SEQ_LEN, "tokens": n_steps * 64 * SEQ_LEN, "micro_rows": rows,
        "val_every": n_steps,
        "checkpoint_every": 1000, "compile": str(compiled).lower(),
    }  # fmt: skip
    given = [f"training.{key}={value}" for key, value in training.items()]
    return load_config(f"experiments/hymba_{shape}.yaml", [f"data={{text: {data}}}", *given])


PARTS: dict[str, Callable[[str, Path], Iterator[str]]] = {
    "training": training_lines,
    "scan": lambda name, out: scan_lines(),
    "attention": lambda name, out: attention_lines(),
}


if __name__ == "__main__":
    main()
