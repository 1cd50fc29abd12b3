"""One sweep at several scales: widths, tokens, batch and learning rates stand in a scale file.

A sweep that names `scale: nano` in place of `base:` reads `scales/nano.yaml` beside it:

    base: ../../experiments/ablation_nano.yaml    # relative to the scale file
    defaults: {seeds: [0, 1, 2], ...}             # keys of the sweep, where it has none itself
    words: {window: 17, n_meta: 8}                # what the sweep writes as $window, $n_meta
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from hymba_lab.config import load_document
from hymba_lab.config.messages import checked
from hymba_lab.config.yaml_file import Document, Place
from hymba_lab.errors import ConfigError, suggest
from hymba_lab.registry import Section

_FOLDER = "scales"
_WORD = re.compile(r"\$(\w+)")


class Hardware(Section):
    """What a plan counts with: a card of `hymba_lab.cost.cards`, and the share of its peak rate.

    `mfu` is what a run is expected to reach: training FLOPs a second over the peak rate of matrix
    products. `measured` says where it was measured; without it the plan calls it assumed.
    """

    card: str
    mfu: Annotated[float, Field(gt=0, le=1)]
    measured: str | None = None


class ScaleFile(Section):
    """What changes from scale to scale; the question does not."""

    base: str  # the experiment, relative to the scale file
    hardware: Hardware | None = None  # what --plan counts GPU-hours with
    defaults: dict[str, Any] = {}  # keys of the sweep, where it has none itself
    words: dict[str, Any] = {}  # word -> value of what the sweep writes as $word


def at_scale(document: Document, path: Path, scale: str | None) -> Document:
    """Return the sweep of `path` at the asked scale, or at the one it names itself.

    Raises `ConfigError` for a scale without a file, a sweep with a `base:` of its own, an unknown
    word.
    """
    chosen = scale or document.data.get("scale")
    if chosen is None:
        return document
    if "base" in document.data:
        said = "has one size; a sweep for several scales writes scale: in its place."
        raise document.wrong(["base"], said)
    file, marks = _read(path, str(chosen), document)
    written = _Words(file.words, document, path).in_sweep()
    data = {
        **_Words(file.words, document, path).in_value(file.defaults, ("scale",)),
        **written,
        "base": os.path.normpath(os.path.join(_FOLDER, file.base)),
        "scale": str(chosen),
    }
    defaults = {
        place[1:]: mark
        for place, mark in marks.items()
        if place[:1] == ("defaults",) and len(place) > 1 and place[1] not in written
    }
    base: dict[Place, str] = {("base",): marks.get(("base",), str(path))}
    return Document(data, {**defaults, **_renamed(document, file.words), **base})


def hardware_of(path: Path, document: Document) -> Hardware | None:
    """Return what the scale of a sweep says about machines, None where nothing is said."""
    scale = document.data.get("scale")
    file = path.parent / _FOLDER / f"{scale}.yaml"
    if scale is None or not file.is_file():
        return None
    return _read(path, str(scale), document)[0].hardware


def _read(path: Path, scale: str, document: Document) -> tuple[ScaleFile, Mapping[Place, str]]:
    """Read a scale's file; the error for a missing one names those that are there."""
    folder = path.parent / _FOLDER
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if scale not in known:
        there = f"scales: {', '.join(known)}" if known else f"{folder} holds no scale"
        where = document.where(["scale"])
        raise ConfigError(f"{where}: no scale {scale!r}; {there}.")
    read = load_document(folder / f"{scale}.yaml")
    return checked(read, ScaleFile), read.marks


class _Words:
    """Puts the scale's words into what a sweep wrote."""

    def __init__(self, words: Mapping[str, Any], document: Document, path: Path) -> None:
        self.words, self.document, self.path = words, document, path

    def in_sweep(self) -> dict[str, Any]:
        return {key: self.in_value(value, (key,)) for key, value in self.document.data.items()}

    def in_value(self, value: Any, place: Place) -> Any:
        """A value that is just `$word` becomes the word's value; labels and texts hold its text."""
        if isinstance(value, dict):
            return {
                self.in_text(key, (*place, key)): self.in_value(below, (*place, key))
                for key, below in value.items()
            }
        if isinstance(value, list):
            return [self.in_value(below, (*place, n)) for n, below in enumerate(value)]
        if not isinstance(value, str):
            return value
        whole = _WORD.fullmatch(value)
        return self._known(whole[1], place) if whole else self.in_text(value, place)

    def in_text(self, text: str, place: Place) -> str:
        return _WORD.sub(lambda found: str(self._known(found[1], place)), text)

    def _known(self, word: str, place: Place) -> Any:
        if word not in self.words:
            where = self.document.where(place)
            raise ConfigError(f"{where}: no word ${word} in the scale" + suggest(word, self.words))
        return self.words[word]


def _renamed(document: Document, words: Mapping[str, Any]) -> dict[Place, str]:
    """The marks of the sweep with the words put into their labels."""

    def name(step: str | int) -> str | int:
        if isinstance(step, int):
            return step
        return _WORD.sub(lambda found: str(words[found[1]]), step)

    return {tuple(map(name, place)): mark for place, mark in document.marks.items()}
