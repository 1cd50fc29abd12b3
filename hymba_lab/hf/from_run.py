"""A run of the lab as a folder of transformers: its architecture, weights and tokenizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hymba_lab.checkpoints.codec import SourceIds, text_source
from hymba_lab.checkpoints.fast_tokenizer import fast_tokenizer
from hymba_lab.checkpoints.weights import described, load_weights
from hymba_lab.config import from_resolved
from hymba_lab.config.start import RUN_WEIGHTS as WEIGHTS
from hymba_lab.errors import CheckpointError
from hymba_lab.hf.config import HymbaLabConfig
from hymba_lab.hf.model import HymbaLabForCausalLM


def from_run(run: Path, plugins: Sequence[Path] = ()) -> tuple[HymbaLabForCausalLM, Any]:
    """Return model and tokenizer of `runs/<id>`; the ids are those that it was trained on.

    Raises `CheckpointError` for what is no run, and for one without text.
    """
    file = run if run.is_file() else run / WEIGHTS
    if not file.is_file():
        raise CheckpointError(f"{run}: no {WEIGHTS}, so no run of the lab that was trained.")
    weights, facts = load_weights(file)
    resolved, vocab = described(file, facts)
    config = from_resolved(resolved, plugins=plugins, source=str(file))
    codec = text_source(config, file)
    if not isinstance(codec, SourceIds):
        raise CheckpointError(f"{file}: its text source has no tokenizer of its own.")
    tokenizer = fast_tokenizer(codec.tokenizer, codec.offset, str(file))
    dtype = next(iter(weights.values())).dtype
    end = codec.eos[0]
    model = HymbaLabForCausalLM(HymbaLabConfig.of(config, vocab, end, dtype)).to(dtype)
    state = {
        "lm_head.weight" if name == "head.weight" else f"model.net.{name}": weight
        for name, weight in weights.items()
    }
    if config.model.tie_embeddings:
        state["lm_head.weight"] = state["model.net.embedding.weight"]
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{file}: not the weights of its configuration: {error}") from None
    return model.eval(), tokenizer


def save_run(run: Path, out: Path, plugins: Sequence[Path] = ()) -> None:
    """Write a run as a folder that `from_pretrained`, chat, evaluation and fine-tuning take."""
    if out.exists() and any(out.iterdir()):
        raise CheckpointError(f"{out}: is not empty; name another folder.")
    model, tokenizer = from_run(run, plugins)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
