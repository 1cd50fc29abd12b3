"""The YAML of a tokenization."""

from pathlib import Path
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
    """Text -> tokens. Paths are relative to the file; nothing here depends on the machine."""

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
    unit_mb: Annotated[float, Field(gt=0)] = 64.0
    shard_tokens: Annotated[int, Field(ge=1024)] = 1 << 27

    def located(self, folder: Path) -> "TokenizeConfig":
        """Return the configuration with absolute paths, `folder` being that of its file."""

        def at(path: str) -> str:
            return str(folder / Path(path).expanduser())

        tokenizer = self.tokenizer
        if tokenizer.file is not None:
            tokenizer = tokenizer.model_copy(update={"file": at(tokenizer.file)})
        paths = [at(path) for path in self.paths]
        return self.model_copy(update={"out": at(self.out), "paths": paths, "tokenizer": tokenizer})
