"""The YAML of a tokenization."""

from typing import Annotated, Literal

from pydantic import Field

from hymba_lab.registry import Section


class Hub(Section):
    """A data set that the package `datasets` can read: a name of a hub, or a local builder."""

    dataset: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    data_files: list[str] | None = None


class TokenizerOptions(Section):
    """A tokenizer.json as it is (`file`), or byte-level BPE trained on a sample (`n_bpe`)."""

    file: str | None = None
    n_bpe: Annotated[int, Field(ge=258, le=1 << 20)] | None = None
    sample_mb: Annotated[float, Field(gt=0)] = 32.0
    end_of_text: str | None = None  # None = the one the tokenizer is known to have


class TokenizeConfig(Section):
    """Text -> tokens; nothing here depends on the machine."""

    name: Annotated[str, Field(min_length=1)]
    description: str = ""
    out: str
    paths: list[str] = []
    hub: Hub | None = None
    column: str = "text"
    separator: Annotated[str, Field(min_length=1)] | None = None
    tokenizer: TokenizerOptions
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.001
    deduplicate: bool = False
    undecodable: Literal["refuse", "skip", "replace"] = "refuse"
    unit_mb: Annotated[float, Field(ge=1e-6)] = 64.0
    shard_tokens: Annotated[int, Field(ge=1024)] = 1 << 27


def contradiction(config: TokenizeConfig) -> tuple[str, str] | None:
    """Return the key that says too much or too little, and what is wrong; None where none does."""
    if bool(config.paths) == (config.hub is not None):
        return "paths", "give the text as `paths` or as `hub`, one of the two"
    if (config.tokenizer.file is None) == (config.tokenizer.n_bpe is None):
        return "tokenizer", "give `file`, or `n_bpe` to train one, one of the two"
    return None
