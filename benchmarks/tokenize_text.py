"""Text to tokens and tokens to batches: speed, memory, equal bytes, kills, opening, reading.

    python benchmarks/tokenize_text.py [--millions 20] [--large 200] [--kills 5] [--json FILE]

The text is that of the installed packages (sources and documentation), packed into jsonl files of
about 25 MB; where that is not enough it is taken again under other first lines. The tokenizer is a
BPE of 16,000 ids trained on 8 MB of it. Everything runs as a user runs it: `hymba-lab tokenize`.
"""

import argparse
import filecmp
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil

SUFFIXES = (".py", ".md", ".rst", ".txt", ".pyi")
BYTES_PER_TOKEN = 3.8
FILE_BYTES = 25_000_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, default=20, help="tokens [1e6]")
    parser.add_argument("--large", type=float, help="tokens [1e6] of a second size, for memory")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        os.environ["HYMBA_LAB_CACHE"] = str(Path(folder, "cache"))
        figures = measure(Path(folder), options)
    from hymba_lab.runs.provenance import commit, hardware

    figures |= {"commit": commit().sha, "hardware": hardware(), "load": os.getloadavg()[0]}
    for name, value in figures.items():
        print(f"{name:36} {value:.4g}" if isinstance(value, float) else f"{name:36} {value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return all figures."""
    n_bytes = pack(folder / "text", options.millions * 1e6 * BYTES_PER_TOKEN)
    first = write_config(folder, "first", "text", {"n_bpe": 16_000, "sample_mb": 8})
    trained = tokenized(first, 1)
    given = {"file": str(folder / "first" / "tokenizer.json")}
    alone = tokenized(write_config(folder, "alone", "text", given), 1)
    both = tokenized(write_config(folder, "both", "text", given), options.workers)
    facts = json.loads((folder / "first" / "index.json").read_text())
    tokens = sum(shard["n_tokens"] for shard in facts["shards"])
    figures: dict[str, Any] = {
        "text [MB]": n_bytes / 1e6,
        "tokens [1e6]": tokens / 1e6,
        "bytes a token": n_bytes / tokens,
        "training the BPE [s of CPU]": trained["cpu"] - alone["cpu"],
        "MB/s a core (CPU time)": n_bytes / 1e6 / alone["cpu"],
        "MB/s, 1 worker (wall)": n_bytes / 1e6 / alone["wall"],
        f"MB/s, {options.workers} workers (wall)": n_bytes / 1e6 / both["wall"],
        "peak of a process [MB]": both["peak"],
        "tokenized twice, equal bytes": same(folder / "alone", folder / "both"),
        "kills survived with equal bytes": kills(folder, given, options),
    }
    if options.large:
        shutil.rmtree(folder / "text")
        n_bytes = pack(folder / "text", options.large * 1e6 * BYTES_PER_TOKEN)
        large = tokenized(write_config(folder, "large", "text", given), options.workers)
        figures |= {
            "large text [MB]": n_bytes / 1e6,
            "large: peak of a process [MB]": large["peak"],
        }
        figures["large: MB/s (wall)"] = n_bytes / 1e6 / large["wall"]
    return figures | opening(folder) | reading(folder / "first")


def pack(folder: Path, most: float) -> int:
    """Write jsonl files of installed text, `most` bytes of it; return how many bytes."""
    folder.mkdir()
    total = 0
    texts = _texts()
    for number in range(100_000):
        held = 0
        with (folder / f"{number:04d}.jsonl").open("w", encoding="utf-8") as stream:
            while held < FILE_BYTES and total < most:
                text = next(texts)
                stream.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                held += len(text.encode())
                total += len(text.encode())
        if total >= most:
            break
    return total


def _texts() -> Iterator[str]:
    import numpy

    root = Path(numpy.__file__).parents[1]
    files = sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    for time_round in range(1000):
        for path in files:
            try:
                text = path.read_text("utf-8")
            except (UnicodeDecodeError, OSError):
                continue
            if 0 < len(text) < 1_000_000:
                yield text if not time_round else f"# copy {time_round}\n{text}"


def write_config(folder: Path, out: str, text: str, tokenizer: Mapping[str, object]) -> Path:
    """Write the YAML of one tokenization."""
    file = folder / f"{out}.yaml"
    file.write_text(
        f"name: {out}\nout: {out}\npaths: [{text}]\ntokenizer: {json.dumps(tokenizer)}\n"
        "val_fraction: 0.005\nunit_mb: 8\n"
    )
    return file


def command(file: Path, workers: int) -> list[str]:
    """Return the command line of a tokenization."""
    return [sys.executable, "-m", "hymba_lab.commands.tokenize", str(file), f"--workers={workers}"]


def tokenized(file: Path, workers: int) -> dict[str, float]:
    """Tokenize, and return wall and CPU time [s] and the largest resident set of a process [MB].

    CPU time is known with one worker only: more of them are no children of ours.
    """
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command(file, workers), stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, *(_resident(pid) for pid in _family(process.pid)), 0)
        time.sleep(0.1)
    assert process.returncode == 0, process.returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": time.perf_counter() - begin, "cpu": cpu, "peak": peak / 1e6}


def _family(pid: int) -> list[int]:
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def same(one: Path, two: Path) -> bool:
    """Whether two folders hold the same files, byte for byte, but for the name in the index."""
    names = sorted(path.name for path in one.iterdir())
    if names != sorted(path.name for path in two.iterdir()):
        return False
    texts = [
        (folder / "index.json").read_text().replace(f'"name": "{folder.name}"', "")
        for folder in (one, two)
    ]
    others = [name for name in names if name != "index.json"]
    return texts[0] == texts[1] and filecmp.cmpfiles(one, two, others, shallow=False)[0] == others


def kills(folder: Path, tokenizer: Mapping[str, object], options: argparse.Namespace) -> str:
    """Kill a tokenization when so many units are done, and let it go on; say how many came right.

    The leader alone is killed: its workers must leave by themselves.
    """
    n_units = len(list((folder / "alone").glob("train-*.bin")))
    right = 0
    for number in range(options.kills):
        out = folder / f"killed{number}"
        file = write_config(folder, out.name, "text", tokenizer)
        process = subprocess.Popen(
            command(file, options.workers), stderr=subprocess.DEVNULL, start_new_session=True
        )
        done = n_units * number // options.kills
        while process.poll() is None and len([*out.glob(".work/unit-*.json")]) < done:
            time.sleep(0.02)
        stood = process.poll() is None
        process.kill()
        process.wait()
        tokenized(file, options.workers)
        right += stood and same(folder / "alone", out)
        shutil.rmtree(out)
    return f"{right} of {options.kills}"


def opening(folder: Path) -> dict[str, float]:
    """Return the seconds of opening 1,000 and 10,000 shards, for the first time and again."""
    from hymba_lab.data.index import Shard, TokenIndex, read_index, write_index
    from hymba_lab.data.shard_file import ShardWriter

    figures = {}
    rng = np.random.default_rng(0)
    for n in (1000, 10_000):
        home = folder / f"shards{n}"
        home.mkdir()
        writer = ShardWriter(home / "0.bin", vocab=16_000, end_of_text=0, tokenizer="t")
        writer.add([rng.integers(1, 16_000, 999).tolist() for _ in range(10)], 39_960)
        header = writer.close()
        for number in range(1, n):
            shutil.copyfile(home / "0.bin", home / f"{number}.bin")
        shards = [Shard("0.bin", "val", header)]
        shards += [Shard(f"{number}.bin", "train", header) for number in range(1, n)]
        write_index(TokenIndex(home, "shards", shards, 1.0), {}, draft=home / "index.json")
        for name in ("first", "again"):
            begin = time.perf_counter()
            read_index(home)
            figures[f"opening {n:,} shards, {name} [s]"] = time.perf_counter() - begin
        shutil.rmtree(home)
    return figures


def reading(tokens: Path) -> dict[str, float]:
    """Return what reading a batch takes of a processor, against a training step of nano.yaml."""
    import torch

    from hymba_lab.config import load_config
    from hymba_lab.data.source import build_sources, datasets
    from hymba_lab.model import build_model
    from hymba_lab.optim.optimizers import optimizers
    from hymba_lab.training.scoring import batch_loss, pick

    torch.set_num_threads(1)
    config = load_config(Path(__file__).parents[1] / "experiments" / "nano.yaml")
    rows, seq_len = config.data["text"].options()["rows"], config.training.seq_len
    options = {"rows": rows, "corpora": {"text": {"folder": str(tokens)}}}
    spec = datasets.spec("corpora", **options)
    source = datasets.build(spec, seq_len)
    mixture = build_sources(config.data, seq_len)
    model = build_model(config.model, mixture.vocab)
    optimizer = optimizers.build(config.optimizer, model)
    reads, steps = [], []
    for step in range(60):
        begin = time.thread_time()  # of a processor: other programs take wall time from both
        source.train_batch(0, step)
        reads.append(time.thread_time() - begin)
        batch = pick(mixture.train_batch(0, step))
        n = [
            int((mixture.train_batch(0, step).targets[r] != -100).sum())
            for r in mixture.parts.values()
        ]
        begin = time.process_time()  # autograd computes in a thread of its own
        batch_loss(model, batch, n)[0].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        steps.append(time.process_time() - begin)
    read, trained = float(np.median(reads)), float(np.median(steps))
    return {
        f"reading {rows} rows of {seq_len} [ms]": read * 1e3,
        "step of nano.yaml [ms]": trained * 1e3,
        "reading / step [%]": 100 * read / trained,
    }


if __name__ == "__main__":
    main()
