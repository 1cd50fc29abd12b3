"""One unit of text to shards: what a worker does, a function of the unit and the settings alone."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hymba_lab.data.given import GivenTokenizer, given
from hymba_lab.data.index import TOKENIZER, Part
from hymba_lab.data.prepare.inputs import Unit
from hymba_lab.data.prepare.marks import Mask, marked, validates
from hymba_lab.data.prepare.schema import TokenizeConfig
from hymba_lab.data.shard_file import ShardWriter

BATCH = 1 << 20
"""Characters encoded at a time: bounds the memory that encoding takes."""


@dataclass(frozen=True)
class Place:
    """Where the files of a tokenization stand."""

    out: Path

    @property
    def work(self) -> Path:
        """What is kept until the index is written."""
        return self.out / ".work"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer.json that makes the ids."""
        return self.out / TOKENIZER

    @property
    def pin(self) -> Path:
        """Which commit of a hub's data set is read."""
        return self.work / "hub.json"

    def marks(self, number: int) -> Path:
        """The marks of the documents of a unit."""
        return self.work / f"marks-{number:05d}"

    def mask(self, number: int) -> Path:
        """Which documents of a unit are copies of earlier ones."""
        return self.work / f"copies-{number:05d}.npy"

    def done(self, number: int) -> Path:
        """The facts of a unit, there when all its shards are."""
        return self.work / f"unit-{number:05d}.json"

    def counts(self, number: int) -> Path:
        """How often each id comes in the parts of a unit."""
        return self.work / f"counts-{number:05d}.npz"


def make_unit(config: TokenizeConfig, unit: Unit, number: int) -> None:
    """Write the shards of a unit and then its facts."""
    place = Place(Path(config.out))
    tokenizer = given(place.tokenizer, config.tokenizer.end_of_text)
    mask = np.load(place.mask(number)) if config.deduplicate else None
    parts: dict[Part, _Shards] = {
        "train": _Shards(place.out, f"train-{number:05d}", tokenizer, config.shard_tokens),
        "val": _Shards(place.work, f"val-{number:05d}", tokenizer, config.shard_tokens),
    }
    n_undecodable = 0
    try:
        for found in _parted(config, unit, mask):
            if found is None:
                n_undecodable += 1
            else:
                parts[found[0]].add(found[1])
        for shards in parts.values():
            shards.close()
    except BaseException:
        for shards in parts.values():
            shards.abandon()
        raise
    draft = place.counts(number).with_suffix(".partial.npz")
    np.savez_compressed(draft, train=parts["train"].counts, val=parts["val"].counts)
    draft.replace(place.counts(number))
    facts = {part: shards.made for part, shards in parts.items()} | {"undecodable": n_undecodable}
    _write(place.done(number), json.dumps(facts))


def _parted(
    config: TokenizeConfig, unit: Unit, mask: Mask | None
) -> Iterator[tuple[Part, str] | None]:
    at = 0
    for found in marked(unit, config):
        if found is None:
            yield None
            continue
        text, mark = found
        if mask is None or not mask[at]:
            yield ("val" if validates(mark, config.val_fraction) else "train"), text
        at += 1


def _write(file: Path, text: str) -> None:
    draft = file.with_suffix(".partial")
    draft.write_text(text, "utf-8")
    draft.replace(file)


class _Shards:
    """Texts to shards of at most about `most` tokens, named `<stem>.bin`, `<stem>-1.bin`, ..."""

    def __init__(self, folder: Path, stem: str, tokenizer: GivenTokenizer, most: int) -> None:
        self.folder, self.stem, self.tokenizer, self.most = folder, stem, tokenizer, most
        self.counts = np.zeros(tokenizer.vocab, dtype=np.int64)
        self.made: list[dict[str, object]] = []
        self._writer: ShardWriter | None = None
        self._texts: list[str] = []
        self._held = 0

    def add(self, text: str) -> None:
        self._texts.append(text)
        self._held += len(text)
        if self._held >= BATCH:
            self._encode()

    def close(self) -> None:
        if self._texts:
            self._encode()
        self._finish()

    def abandon(self) -> None:
        if self._writer is not None:
            self._writer.abandon()

    def _encode(self) -> None:
        if self._writer is None:
            name = f"{self.stem}-{len(self.made)}.bin" if self.made else f"{self.stem}.bin"
            self._writer = ShardWriter(
                self.folder / name,
                vocab=self.tokenizer.vocab,
                end_of_text=self.tokenizer.end_of_text,
                tokenizer=self.tokenizer.sha256,
            )
        self._writer.add(
            encode(self.tokenizer, self._texts), sum(len(text.encode()) for text in self._texts)
        )
        self._texts, self._held = [], 0
        if self._writer.n_tokens >= self.most:
            self._finish()

    def _finish(self) -> None:
        if self._writer is not None:
            header = self._writer.close()
            self.counts += self._writer.counts
            self.made.append({"file": self._writer.path.name, **asdict(header)})
            self._writer = None


def encode(tokenizer: GivenTokenizer, texts: list[str]) -> list[list[int]]:
    """Return the ids of each text; a long one is encoded in pieces cut after line ends."""
    pieces = [list(_pieces(text)) for text in texts]
    flat = [piece for some in pieces for piece in some]
    made = iter(tokenizer.batch(flat))
    return [[i for _ in some for i in next(made)] for some in pieces]


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > BATCH:
        end = text.find("\n", start + BATCH) + 1 or len(text)
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]
