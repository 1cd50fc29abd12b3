"""The end of a tokenization: validation parts joined, facts summed, the index written."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from hymba_lab.atomic import json_of
from hymba_lab.data.index import INDEX, Shard, TokenIndex, read_index, write_index
from hymba_lab.data.prepare.schema import TokenizeConfig
from hymba_lab.data.prepare.unit import Place
from hymba_lab.data.shard_file import ShardHeader, ShardWriter, read_header
from hymba_lab.data.streams import unigram_entropy
from hymba_lab.errors import DataError


def finish(config: TokenizeConfig, n_units: int, told: dict[str, Any]) -> TokenIndex:
    """Write what is left once all units are made, and return the index.

    `told` goes into it as it is: the recipe, the sha256 of the text, the commit of a hub's.
    Everything is written before the index, and the index before the working folder goes: a kill
    in between leaves a tokenization that goes on, or a whole one.
    """
    place = Place(Path(config.out))
    made = [json_of(place.done(number)) for number in range(n_units)]
    train = [_shard("train", facts) for unit in made for facts in unit["train"]]
    parts = [place.work / facts["file"] for unit in made for facts in unit["val"]]
    if not train or not parts:
        raise DataError(
            f"{config.out}: no document for the {'validation' if train else 'training'} part; "
            + ("raise val_fraction, or give more text" if train else "give more text")
        )
    shards = [*train, *_joined(place, parts, config.shard_tokens)]
    index = TokenIndex(place.out, config.name, shards, _entropy(place, n_units))
    draft = place.work / INDEX
    facts = {
        "description": config.description,
        **told,
        "undecodable_left_out": sum(unit["undecodable"] for unit in made),
        **_copies(config, place, n_units),
    }
    write_index(index, facts, draft=draft)
    draft.replace(place.out / INDEX)
    clear(place)
    return read_index(place.out)


def clear(place: Place) -> None:
    """Remove the working folder."""
    shutil.rmtree(place.work, ignore_errors=True)


def _shard(part: Any, facts: dict[str, Any]) -> Shard:
    header = {key: value for key, value in facts.items() if key != "file"}
    return Shard(facts["file"], part, ShardHeader(**header))


def _joined(place: Place, parts: list[Path], most: int) -> list[Shard]:
    made: list[Shard] = []
    writer: ShardWriter | None = None
    first = _header(parts[0])
    for number, path in enumerate(parts):
        if writer is None:
            writer = ShardWriter(
                place.out / f"val-{len(made):05d}.bin",
                vocab=first.vocab,
                end_of_text=first.end_of_text,
                tokenizer=first.tokenizer,
            )
        writer.add_shard(path)
        if writer.n_tokens >= most or number == len(parts) - 1:
            made.append(Shard(writer.path.name, "val", writer.close()))
            writer = None
    return made


def _header(path: Path) -> ShardHeader:
    header = read_header(path)
    assert header is not None
    return header


def _entropy(place: Place, n_units: int) -> float:
    train: Any = 0
    val: Any = 0
    for number in range(n_units):
        with np.load(place.counts(number)) as counts:
            train, val = train + counts["train"], val + counts["val"]
    return unigram_entropy(train, val)


def _copies(config: TokenizeConfig, place: Place, n_units: int) -> dict[str, int]:
    if not config.deduplicate:
        return {}
    masks = [np.load(place.mask(number)) for number in range(n_units)]
    return {"copies_left_out": int(sum(mask.sum() for mask in masks))}
