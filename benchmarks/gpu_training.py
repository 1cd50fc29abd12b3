"""Tokens a second, MFU and peak memory of the recipes' shapes on a GPU, a process for each.

    python benchmarks/gpu_training.py SHAPE [--set KEY=VALUE ...] [--profile FILE]

trains the first steps of experiments/hymba_SHAPE.yaml and prints its figures as they come.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from hymba_lab.config import Config, load_config
from hymba_lab.cost.memory import device_memory
from hymba_lab.training.fit import fit

VOCAB, SEQ_LEN, N_STEPS = 32001, 2048, 6
SHAPES = {"350m": (64, 8), "125m": (64, 8), "1p5b": (16, 4)}  # rows of a step, and at a time
MOST_S = 240  # of a process: whole blocks may take long to compile
PLAIN = {
    f"HYMBA_LAB_{name}": "torch"
    for name in ("ROTATION", "SWIGLU", "CONV", "RMS_NORM", "CROSS_ENTROPY")
}
SIDES: dict[str, tuple[list[str], dict[str, str]]] = {  # settings and environment of a process
    "as it is": ([], {}),
    "operations of torch": ([], PLAIN),
    "no CUDA graph": (["training.cuda_graph=false"], {}),
    "blocks compiled": (["training.cuda_graph=false", "training.compile=true"], {}),
}


def main() -> None:
    """Train one shape here."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("shape", choices=SHAPES)
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    made.add_argument("--profile", type=Path, help="where the times of two steps' kernels go")
    options = made.parse_args()
    train(options.shape, options.set)
    if options.profile is not None:
        profile(options.shape, options.set, options.profile)


def training_lines(out: Path) -> Iterator[str]:
    """The table of every shape and side, with the times of all kernels beside the page."""
    yield f"## Training, {SEQ_LEN} tokens a row, bf16-mixed, AdamW, {N_STEPS} steps"
    yield ""
    yield "| shape | rows, at a time | side | tokens/s | MFU | peak GB | estimate GB |"
    yield "|---|---|---|---|---|---|---|"
    for side, (changes, environment) in SIDES.items():
        for shape, (rows, micro_rows) in SHAPES.items():
            watched = ["--profile", str(out / f"gpu-profile-{shape}.txt")] if not changes else []
            said = trained([shape, *_set(changes), *(watched if not environment else [])],
                           environment)  # fmt: skip
            yield f"| {shape} | {rows}, {micro_rows} | {side} | {said} |"
    yield ""


def trained(arguments: list[str], environment: dict[str, str]) -> str:
    """Return the figures of one process as cells, or why there are none."""
    command = [sys.executable, __file__, *arguments]
    try:
        done = subprocess.run(
            command, env=os.environ | environment, capture_output=True, timeout=MOST_S
        )
        said, fault = done.stdout, (done.stderr.decode().strip() or "no word").splitlines()[-1]
    except subprocess.TimeoutExpired as late:
        said, fault = late.stdout or b"", f"no {N_STEPS} steps within {MOST_S} s"
    figures = [line for line in said.decode().splitlines() if line.startswith("{")]
    if not figures:
        return f"{fault[:120]} | | |"
    found = json.loads(figures[-1])
    mfu = f"{found['perf/mfu']:.1%}" if "perf/mfu" in found else "peak not known"
    return (
        f"{found['perf/tokens_per_second_per_device']:,.0f} | {mfu} | "
        f"{found['perf/peak_memory_gb']:.1f} | {found['estimate']:.1f}"
    )


class EnoughError(Exception):
    """All steps are made: saving the weights would take longer than they did."""


def train(shape: str, changes: list[str]) -> None:
    """Train the first steps in this process; print the figures after each but the first."""
    config = experiment(shape, changes)
    estimate = device_memory(config, VOCAB).total / 1e9

    def log(metrics: dict[str, float], step: int) -> None:
        if "perf/tokens_per_second_per_device" not in metrics or step < 2:
            return
        print(json.dumps({**metrics, "step": step, "estimate": estimate}), flush=True)
        if step == N_STEPS:
            raise EnoughError

    try:
        with tempfile.TemporaryDirectory() as folder:
            fit(config, seed=0, folder=Path(folder) / "run", log=log)
    except EnoughError:
        pass


def profile(shape: str, changes: list[str], path: Path) -> None:
    """Write the times of the kernels of two steps, what is saved at the end included."""
    with torch.profiler.profile() as watched, tempfile.TemporaryDirectory() as folder:
        fit(experiment(shape, changes, n_steps=2), seed=0, folder=Path(folder) / "run")
    path.write_text(watched.key_averages().table(sort_by="self_cuda_time_total", row_limit=60))


def experiment(shape: str, changes: list[str], n_steps: int = N_STEPS) -> Config:
    """Return some steps of a recipe on tokens by Zipf's law."""
    rows, micro_rows = SHAPES[shape]
    train, val = (Path(tempfile.gettempdir()) / f"hymba_lab_gpu_{part}.npy" for part in ("a", "b"))
    if not val.exists():
        drawn = np.random.default_rng(0).zipf(1.2, 2_000_000) % VOCAB
        np.save(train, drawn.astype(np.uint16))
        np.save(val, drawn[: 2 * SEQ_LEN].astype(np.uint16))
    text = f"{{name: shards, train: {train}, val: {val}, vocab: {VOCAB}, n_val: 1, rows: {rows}}}"
    training = {
        "seq_len": SEQ_LEN, "tokens": n_steps * rows * SEQ_LEN, "micro_rows": micro_rows,
        "val_every": n_steps, "checkpoint_every": 1000, "log_every": 1,
    }  # fmt: skip
    given = [f"training.{key}={value}" for key, value in training.items()]
    path = f"experiments/hymba_{shape}.yaml"
    return load_config(path, [f"data={{text: {text}}}", *given, *changes])


def _set(changes: list[str]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


if __name__ == "__main__":
    main()
