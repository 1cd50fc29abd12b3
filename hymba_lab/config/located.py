"""Paths in an experiment's data: relative to the file that names them, whoever opens them."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hymba_lab.config.yaml_file import Document, Place
from hymba_lab.registry import FromFile, Located, Section, Spec


def locate(
    specs: Mapping[Place, Spec], document: Document, known: Mapping[str, str]
) -> dict[str, str]:
    """Tell the specs how their paths are opened; return the folders of the relative ones by place.

    `specs` are those of a configuration by their places. `known` are such folders, for a document
    that was written by the program and not by a user.
    """
    places = _Places(document, known)
    for place, spec in specs.items():
        spec.locate(dict(places.changes(spec, place)))
    return places.folders


class _Places:
    """What is relative to what in one document."""

    def __init__(self, document: Document, known: Mapping[str, str]) -> None:
        self.document, self.known = document, known
        self.folders: dict[str, str] = {}

    def changes(self, section: Section, place: Place) -> Iterator[tuple[str, Any]]:
        """Yield the options of a section, or of those in it, that name files, as opened."""
        for name, field in type(section).model_fields.items():
            value, here = getattr(section, name), (*place, name)
            marks = [mark for mark in field.metadata if isinstance(mark, FromFile)]
            if marks:
                if value is not None and value not in marks[0].unless:
                    yield name, self._value(value, here)
            elif isinstance(value, Section):
                if changed := dict(self.changes(value, here)):
                    yield name, value.model_copy(update=changed)
            elif isinstance(value, dict) and any(isinstance(v, Section) for v in value.values()):
                yield name, {key: self._section(v, (*here, key)) for key, v in value.items()}

    def _section(self, section: Section, place: Place) -> Section:
        return section.model_copy(update=dict(self.changes(section, place)))

    def _value(self, value: str | list[str], place: Place) -> Located | list[Located]:
        if isinstance(value, str):
            return self._path(value, place)
        return [self._path(path, (*place, number)) for number, path in enumerate(value)]

    def _path(self, written: str, place: Place) -> Located:
        name = ".".join(map(str, place))
        # a document of the program's own may name the file that it stands in as its source
        folder = self.known.get(name) or str(self.document.folder(place) or "")
        if not Path(folder).is_dir():  # not known, or of a project that was moved since
            folder = ""
        path = Path(os.path.expanduser(written))
        if not path.is_absolute():
            self.folders[name] = folder or str(Path.cwd())
        located = Located(Path(folder or Path.cwd()) / path)
        located.written, located.mark = written, self.document.where(place)
        located.folder = folder or str(Path.cwd())
        return located
