"""YAML 1.2 files as plain data that remembers where every value stands.

Only plain data is read: no tag constructs an object. Inheritance (`extends:`), patches and
command-line overrides keep the position of whatever they put in place, so that an error found much
later still names file, line and column.
"""

import copy
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq, TaggedScalar
from ruamel.yaml.constructor import ConstructorError, RoundTripConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scalarbool import ScalarBoolean

from hymba_lab.errors import ConfigError
from hymba_lab.registry import Located

Place = tuple[str | int, ...]  # ("model", "fusion", "name")

_MAX_NODES = 100_000  # an alias that repeats itself a billion times is no configuration
_MAX_DEPTH = 50
_YAML_ORG = "tag:yaml.org,2002:"
_PLAIN = {"map", "seq", "str", "int", "float", "bool", "null", "merge"}


@dataclass
class Document:
    """Plain data (dict, list, str, int, float, bool, None) with `file:line:column` per place."""

    data: dict[str, Any]
    marks: dict[Place, str] = field(default_factory=dict)

    def where(self, place: Iterable[str | int]) -> str:
        """Return file:line:column of `place`, or of the nearest thing that holds it."""
        steps = tuple(place)
        while steps and steps not in self.marks:
            steps = steps[:-1]
        return self.marks.get(steps, "configuration")

    def wrong(self, place: Iterable[str | int], said: str) -> ConfigError:
        """Return the error of a place: file:line:column: key.in.it: what is wrong."""
        steps = tuple(place)
        return ConfigError(f"{self.where(steps)}: {'.'.join(map(str, steps))}: {said}")

    def folder(self, place: Iterable[str | int]) -> Path | None:
        """Return the folder from which a path that stands at `place` is meant.

        That of the file which names it, the working folder for `--set`, None where it is not known.
        """
        mark = self.where(place)
        if mark.startswith("--set "):
            return Path.cwd()
        file = Path(mark.rsplit(":", 2)[0])
        return file.absolute().parent if file.is_file() else None

    def located(self, path: str, *place: str | int) -> Located:
        """Return a path that stands at `place` as it is opened: from the folder of its file."""
        folder = self.folder(place) or Path.cwd()
        found = Located(folder / os.path.expanduser(path))
        found.written, found.mark, found.folder = path, self.where(place), str(folder)
        return found

    def get(self, path: str) -> Any:
        """Return the value at a dotted path; `KeyError` where there is none."""
        value: Any = self.data
        for step in path.split("."):
            if not isinstance(value, dict) or step not in value:
                raise KeyError(path)
            value = value[step]
        return value

    def patched(self, path: str, value: Any, mark: str) -> "Document":
        """Return a copy with the value at `path` replaced, never merged."""
        steps: Place = tuple(path.split("."))
        if "" in steps:
            raise ConfigError(f"{mark}: {path!r} has an empty step; write it like model.d_model.")
        data = dict(self.data)  # what lies beside the path is shared: nobody changes a document
        holder: Any = data
        made = {steps: mark}
        for depth, step in enumerate(steps[:-1], start=1):
            if step not in holder:
                made[steps[:depth]] = mark
            inner = holder.get(step, {})
            if not isinstance(inner, dict):
                at = _dotted(steps[:depth])
                raise ConfigError(f"{mark}: {path}: {at} is {inner!r}, which holds no keys.")
            holder[step] = inner = dict(inner)
            holder = inner
        holder[steps[-1]] = copy.deepcopy(value)
        below = len(steps)
        marks = {key: at for key, at in self.marks.items() if key[:below] != steps}
        return Document(data, {**marks, **made})


def read_yaml(path: Path) -> Document:
    """Read one file whose top level is a mapping; every fault is a `ConfigError` with its place."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would be waited for
            raise ConfigError(f"{path}: is no file but a pipe or a device; name a YAML file.")
        text = path.read_text(encoding="utf-8")
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory; name a YAML file in it.") from None
    except UnicodeDecodeError as error:
        at = _at(str(path), error.object[: error.start].decode())
        raise ConfigError(f"{at}: byte {error.start} is not UTF-8; save it as UTF-8.") from None
    except FileNotFoundError:
        near = [p.name for p in sorted(path.parent.glob("*.yaml"))][:8]
        there = f"; {path.parent} holds {', '.join(near)}" if near else ""
        raise ConfigError(f"{path}: there is no such file{there}.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> Document:
    """Parse YAML text; `name` stands before line and column in messages."""
    tree = _load(text, name)
    if not isinstance(tree, CommentedMap):
        found = "nothing" if tree is None else "a list" if isinstance(tree, list) else repr(tree)
        raise ConfigError(f"{name}:1:1: holds {found}; a mapping of keys to values is needed.")
    document = Document({}, {(): f"{name}:1:1"})
    document.data = _plain(tree, (), name, document.marks)
    return document


def parse_value(text: str, name: str) -> Any:
    """Parse one YAML value, e.g. the right side of `--set model.d_model=128`."""
    return _plain(_load(text, name), (), name, {})


def merged(base: Document, child: Document) -> Document:
    """Return `child` over `base`: mappings merge key by key, a component (`name:`) replaces."""

    def merge(low: Any, high: Any, place: Place) -> Any:
        is_component = bool(place) and isinstance(high, dict) and isinstance(high.get("name"), str)
        if isinstance(low, dict) and isinstance(high, dict) and not is_component:
            return {
                key: merge(low[key], high[key], (*place, key))
                if key in low and key in high
                else (high if key in high else low)[key]
                for key in [*low, *(k for k in high if k not in low)]
            }
        for old in [mark for mark in marks if mark[: len(place)] == place]:
            del marks[old]
        return high

    marks = dict(base.marks)
    data = merge(base.data, child.data, ()) if child.data else base.data
    return Document(data, {**marks, **child.marks})


def _load(text: str, name: str) -> Any:
    try:
        yaml = YAML(typ="rt")
        yaml.Constructor = _PlainConstructor
        return yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        problem = " ".join(str(error.problem or error.context).split())
        raise ConfigError(f"{at}: not valid YAML: {problem}.") from None
    except ReaderError as error:
        at = _at(name, text[: error.position])
        raise ConfigError(
            f"{at}: not valid YAML: a control character ({error.character})."
        ) from None
    except RecursionError:
        raise ConfigError(f"{_too_deep(text, name)}: nested too deeply.") from None
    except (YAMLError, ValueError, KeyError) as error:
        raise ConfigError(f"{name}: not valid YAML: {error}.") from None


def _too_deep(text: str, name: str) -> str:
    """Return file:line:column of where a text is nested deeper than any configuration."""
    depth = 0
    for event in YAML(typ="rt").parse(text):  # an automaton: it knows no depth
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > _MAX_DEPTH:
            return f"{name}:{event.start_mark.line + 1}:{event.start_mark.column + 1}"
    return name


class _PlainConstructor(RoundTripConstructor):
    """Refuses tags and aliases that contain themselves, where ruamel drops both in silence."""

    def construct_document(self, node: Any) -> Any:
        """Return the document's data."""
        _refuse(node, (), set(), set())
        return super().construct_document(node)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Return a node's value; what it cannot be is said with its place."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError) as error:  # `!!bool perhaps`, a number of 5000 digits
            raise ConstructorError(problem=str(error), problem_mark=node.start_mark) from None


def _refuse(node: Any, place: Place, above: set[int], done: set[int]) -> None:
    if id(node) in above:
        problem = f"{_dotted(place)}: an alias contains itself"
        raise ConstructorError(problem=problem, problem_mark=node.start_mark)
    if id(node) in done:
        return
    kind = str(node.tag).removeprefix(_YAML_ORG)
    if kind not in _PLAIN:
        given = f"the date {node.value}" if kind == "timestamp" else f"the tag {kind}"
        problem = (
            f"{_dotted(place)}: {given} is not allowed; "
            "write text (in quotes), a number, true, false, null, a list or a mapping"
        )
        raise ConstructorError(problem=problem, problem_mark=node.start_mark)
    done.add(id(node))
    for index, part in enumerate(node.value if isinstance(node.value, list) else []):
        key, value = part if isinstance(part, tuple) else (None, part)
        step = index if key is None else str(key.value)
        _refuse(value, (*place, step), above | {id(node)}, done)


def _plain(node: Any, place: Place, name: str, marks: dict[Place, str]) -> Any:
    """Return `node` without YAML's own types, and note where each part of it stands."""
    if len(marks) > _MAX_NODES:
        at = marks.get(place, name)
        raise ConfigError(f"{at}: holds more than {_MAX_NODES} values; is an alias repeated?")
    if isinstance(node, CommentedMap):
        plain = {}
        for key, value in node.items():
            at = _mark(name, node, key, marks.get(place, name))
            if not isinstance(key, str):
                raise ConfigError(
                    f"{at}: {_dotted(place)}: the key {key!r} is not text; put it in quotes."
                )
            marks[(*place, key)] = at
            plain[key] = _plain(value, (*place, key), name, marks)
        return plain
    if isinstance(node, CommentedSeq):
        items = []
        for index, value in enumerate(node):
            line, column = node.lc.item(index) if node.lc.data else (node.lc.line, node.lc.col)
            marks[(*place, index)] = f"{name}:{line + 1}:{column + 1}"
            items.append(_plain(value, (*place, index), name, marks))
        return items
    return _scalar(node, f"{marks.get(place, name)}: {_dotted(place)}")


def _scalar(node: Any, at: str) -> Any:
    if node is None or isinstance(node, bool):
        return node
    if isinstance(node, ScalarBoolean):  # a boolean with an anchor is an int to Python
        return bool(node)
    for kind in (int, float):
        if isinstance(node, kind):
            return kind(node)
    text = str(node.value if isinstance(node, TaggedScalar) else node)  # `!!str 3`
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigError(f"{at}: {text!r} holds half a character (a lone surrogate).")
    if "\0" in text:
        raise ConfigError(f"{at}: {text!r} holds a NUL character; drop it.")
    return text


def _at(name: str, before: str) -> str:
    """Return file:line:column of what follows the text `before`."""
    return f"{name}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def _mark(name: str, node: CommentedMap, key: str, fallback: str) -> str:
    if not node.lc.data or key not in node.lc.data:  # came in through a merge key
        return fallback
    line, column = node.lc.key(key)
    return f"{name}:{line + 1}:{column + 1}"


def _dotted(place: Place) -> str:
    return ".".join(map(str, place)) or "top level"
