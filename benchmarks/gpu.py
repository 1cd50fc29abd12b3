"""Training, a layer, scan and attention on a GPU: `benchmarks/gpu.sh` says what it needs.

Every time is the median of several runs between CUDA events, after a warm-up.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import torch
from gpu_layer import layer_lines
from gpu_training import training_lines
from torch import Tensor

from hymba_lab.ops import scan_triton
from hymba_lab.ops.attention_flex import flex_attention
from hymba_lab.ops.masks import attention_mask
from hymba_lab.ops.scan import SCAN
from hymba_lab.runs.provenance import commit

SCANS = ((8, 2048, 2048, 16), (4, 8192, 3200, 16), (8, 2048, 2048, 64))  # B, T, D, N
ATTENTION = (4, 25, 5, 2176, 64, 128, 1025, 128)  # B, H, K, T, P, V, window, meta tokens


def main() -> None:
    """Measure what was asked for and write one page."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    made.add_argument("--out", type=Path, default=Path("results"))
    made.add_argument("--tests", default="not run")
    made.add_argument("--commit", default=commit().sha, help="of a copy without its repository")
    options = made.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        made.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
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


PARTS: dict[str, Callable[[str, Path], Iterator[str]]] = {
    "training": lambda name, out: training_lines(out),
    "layer": lambda name, out: layer_lines(milliseconds),
    "scan": lambda name, out: scan_lines(),
    "attention": lambda name, out: attention_lines(),
}


if __name__ == "__main__":
    main()
