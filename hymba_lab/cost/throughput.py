"""How fast a model of random weights reads and writes, and how much memory that takes."""

import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from hymba_lab.config import Config
from hymba_lab.cost.cache import held_bytes
from hymba_lab.cost.model import count, meta_model
from hymba_lab.errors import ConfigError, UserError
from hymba_lab.model import LanguageModel
from hymba_lab.model.generate import prefill
from hymba_lab.runs.provenance import hardware

SEED = 0


@dataclass(frozen=True)
class Protocol:
    """Rows of `seq_len` tokens, `batch` of them at first, each going on for `new_tokens`."""

    seq_len: int
    batch: int
    new_tokens: int
    chunk: int  # tokens of a prompt read at once
    dtype: torch.dtype
    device: torch.device


def device_of(name: str | None) -> torch.device:
    """Return the device asked for, or the GPU where there is one; raises `UserError`."""
    cuda = torch.cuda.is_available()
    try:
        device = torch.device(name or ("cuda" if cuda else "cpu"))
    except RuntimeError:
        raise UserError(f"--device {name}: there is no such device; take cpu or cuda.") from None
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not cuda):
        raise UserError(f"--device {name}: not available here; take cpu{' or cuda' * cuda}.")
    return device


def set_threads(n_threads: int | None) -> None:
    """Let torch use `n_threads` (None = its own choice); raises `UserError` for fewer than one."""
    if n_threads is None:
        return
    if not 1 <= n_threads <= 1024:
        raise UserError(f"--threads {n_threads}: give a number from 1 to 1024.")
    torch.set_num_threads(n_threads)


def hardware_of(device: torch.device) -> str:
    """Return what the figures were measured on."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {hardware()}"
    return f"{torch.get_num_threads()} threads of {hardware()}"


def measure(config: Config, vocab: int, protocol: Protocol) -> dict[str, float] | None:
    """Return the figures of the largest batch that fits, None where a single row does not.

    batch, params, prefill_tokens_per_s, decode_tokens_per_s (of all rows together), peak_bytes (a
    GPU: allocated tensors; a CPU: the process), cache_bytes (all rows).
    """
    row_bytes = _row_bytes(config, vocab, protocol)
    model = _random_model(config, vocab, protocol)
    batch = protocol.batch
    while batch:
        if _may_fit(batch * row_bytes, protocol.device):
            try:
                return {"batch": batch, "params": count(model), **_run(model, batch, protocol)}
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
            if protocol.device.type == "cuda":
                torch.cuda.empty_cache()  # what the failed batch held
        batch //= 2
    return None


def _row_bytes(config: Config, vocab: int, protocol: Protocol) -> int:
    """Return about what one row needs: its cache, and what a chunk takes inside the widest block.

    Raises `ConfigError` with its place.
    """
    n_tokens = protocol.seq_len + protocol.new_tokens
    try:
        cache = held_bytes(config.model, vocab, n_tokens, protocol.dtype)
        shape = meta_model(config.model, vocab)
    except ConfigError as error:
        raise config.blame(error) from None
    widest = max(_outputs(block) for block in shape.blocks)
    return cache + protocol.chunk * widest * torch.float32.itemsize


def _outputs(block: nn.Module) -> int:
    """Return the channels that all linear maps of a block make together."""
    return sum(part.out_features for part in block.modules() if isinstance(part, nn.Linear))


def _random_model(config: Config, vocab: int, protocol: Protocol) -> LanguageModel:
    """Return a model of small random weights, made in place: no second copy, no float32 one."""
    shape = meta_model(config.model, vocab).to(protocol.dtype)
    n_bytes = count(shape) * protocol.dtype.itemsize
    if not _may_fit(n_bytes, protocol.device):
        raise UserError(
            f"{config.name}: its weights take {n_bytes / 1e9:.1f} GB, more than is free; take a "
            "smaller model or --dtype bf16."
        )
    try:
        model = shape.to_empty(device=protocol.device).eval()
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        raise UserError(
            f"{config.name}: its {n_bytes / 1e9:.1f} GB of weights do not fit."
        ) from None
    generator = torch.Generator(protocol.device).manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02, generator=generator)
    return model


@torch.no_grad()
def _run(model: LanguageModel, batch: int, protocol: Protocol) -> dict[str, float]:
    """Read and write once to warm up, shortly, then measure."""
    device, vocab = protocol.device, model.embedding.num_embeddings
    generator = torch.Generator(device).manual_seed(SEED)
    shape = (batch, protocol.seq_len)
    tokens = torch.randint(vocab, shape, device=device, generator=generator)
    _read_and_write(model, tokens[:, : protocol.chunk], 2, protocol.chunk)
    _reset_peak(device)
    n_bytes, reading, writing = _read_and_write(model, tokens, protocol.new_tokens, protocol.chunk)
    return {
        "prefill_tokens_per_s": batch * protocol.seq_len / reading,
        "decode_tokens_per_s": batch * protocol.new_tokens / writing,
        "peak_bytes": _peak(device),
        "cache_bytes": n_bytes,
    }


def _read_and_write(
    model: LanguageModel, tokens: torch.Tensor, n_new: int, chunk: int
) -> tuple[int, float, float]:
    """Return the cache's bytes, seconds for the prompts and seconds for the tokens after them."""
    n_rows, seq_len = tokens.shape
    cache = model.cache(n_rows, seq_len + n_new)
    lengths = torch.full((n_rows,), seq_len, device=tokens.device)
    began = _now(tokens.device)
    features = prefill(model, cache, tokens, lengths, chunk)
    read = _now(tokens.device)
    for _ in range(n_new):
        new = model.logits(features).argmax(-1)
        features = model.features(new[:, None], cache)[:, 0]
    return cache.nbytes, read - began, _now(tokens.device) - read


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _may_fit(n_bytes: int, device: torch.device) -> bool:
    """Whether so much memory is free; a CPU would kill the process rather than refuse."""
    return device.type == "cuda" or n_bytes < _available()


def _available() -> int:
    """Return the bytes of memory that are free [Linux], or that there are."""
    if (meminfo := Path("/proc/meminfo")).exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif (clear := Path("/proc/self/clear_refs")).exists():
        clear.write_text("5")  # Linux: the peak starts again at what is held now


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if (status := Path("/proc/self/status")).exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
