"""A model of the 125M shape on this machine: does it fit, and is a killed run the whole run?

    python benchmarks/large_model.py [--experiment experiments/hymba_125m.yaml] [--steps 8]
        [--rows 2] [--seq-len 512] [--folder runs/large_model]

Trains in fp32 on a shard of 16-bit tokens (Zipf's law, made here), one row at a time, twice: once
whole, once killed with SIGKILL after its first checkpoint and started again. Prints the peak
memory of the process beside the estimate of `inspect`, and whether the weights are equal bits.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from hymba_lab.config import Config, load_config
from hymba_lab.cost.memory import device_memory
from hymba_lab.runs.provenance import commit, hardware

VOCAB = 32001


def main() -> None:
    """Run both and print what was found."""
    options = arguments().parse_args()
    if options.child:
        train(options)
        return
    sha = commit().sha[:10]  # of the code that runs, not of what may be committed meanwhile
    options.folder.mkdir(parents=True, exist_ok=True)
    make_tokens(options.folder)
    whole = run(options, "whole")
    killed = start(options, "killed")
    while not (options.folder / "killed" / "last.ckpt").exists():
        if killed.poll() is not None:
            raise SystemExit("the run ended before its first checkpoint")
        time.sleep(0.1)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    resumed = run(options, "killed")
    files = [options.folder / name / "weights.safetensors" for name in ("whole", "killed")]
    equal = files[0].read_bytes() == files[1].read_bytes()
    memory = device_memory(configured(options), VOCAB)
    print(f"{options.experiment}, fp32, {options.steps} steps of {options.rows} rows of "
          f"{options.seq_len} tokens, a row at a time")  # fmt: skip
    print(f"commit {sha}, {hardware()}")
    print(f"resumed from step {resumed['resumed_from']}; weights are equal bits: {equal}")
    print(f"peak memory above the imports: {whole['peak_gb']:.2f} GB, estimate "
          f"{memory.total / 1e9:.2f} GB")  # fmt: skip
    print(f"{whole['tokens_per_second']:.0f} tokens/s; loss {whole['loss']:.3f}")
    if not equal:
        raise SystemExit("the resumed run is another one")


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--experiment", type=Path, default=Path("experiments/hymba_125m.yaml"))
    made.add_argument("--steps", type=int, default=8)
    made.add_argument("--rows", type=int, default=2)
    made.add_argument("--seq-len", type=int, default=512)
    made.add_argument("--folder", type=Path, default=Path("runs/large_model"))
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--child", help=argparse.SUPPRESS)
    return made


def make_tokens(folder: Path) -> None:
    """Write a million tokens that follow Zipf's law, and the first of them to validate on."""
    ids = (np.random.default_rng(0).zipf(1.2, 1_000_000) % VOCAB).astype(np.uint16)
    np.save(folder / "train.npy", ids)
    np.save(folder / "val.npy", ids[:10_000])


def configured(options: argparse.Namespace) -> Config:
    """Return the experiment on the shard, with the steps asked for."""
    train, val = options.folder / "train.npy", options.folder / "val.npy"
    data = f"{{name: shards, rows: {options.rows}, train: {train}, val: {val}, " \
           f"vocab: {VOCAB}, n_val: 1}}"  # fmt: skip
    training = {
        "seq_len": options.seq_len, "tokens": options.steps * options.rows * options.seq_len,
        "precision": "fp32", "micro_rows": 1, "val_every": options.steps,
        "checkpoint_every": options.steps // 2,
    }  # fmt: skip
    given = [f"training.{name}={value}" for name, value in training.items()]
    return load_config(options.experiment, [f"data={{text: {data}}}", *given])


def start(options: argparse.Namespace, name: str) -> "subprocess.Popen[str]":
    """Start a run in a process of its own."""
    command = [sys.executable, *sys.argv, "--child", name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def run(options: argparse.Namespace, name: str) -> dict[str, float]:
    """Run to the end; return what it measured."""
    out, _ = start(options, name).communicate()
    found: dict[str, float] = json.loads(out)
    return found


def train(options: argparse.Namespace) -> None:
    """Train and print the figures as JSON."""
    from hymba_lab.training.fit import fit

    torch.set_num_threads(options.threads)
    before = peak_bytes("VmRSS")
    result = fit(configured(options), seed=0, folder=options.folder / options.child)
    print(json.dumps({
        "resumed_from": result.resumed_from, "tokens_per_second": result.tokens_per_second,
        "loss": result.metrics["val/loss"], "peak_gb": (peak_bytes("VmHWM") - before) / 1e9,
    }))  # fmt: skip


def peak_bytes(field: str) -> int:
    """Return a field of /proc/self/status [bytes]."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
