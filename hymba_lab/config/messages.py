"""Validation errors as one line each: file:line:column, path, what was given, what is allowed."""

import json
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from hymba_lab.config.yaml_file import Document, Place
from hymba_lab.errors import ConfigError, suggest
from hymba_lab.registry import Spec

M = TypeVar("M", bound=BaseModel)


def checked(document: Document, schema: type[M]) -> M:
    """Return the document as `schema`; a `ConfigError` names file:line:column of every fault."""
    return checked_as(document, schema, document.data)


def checked_as(document: Document, schema: type[M], data: Mapping[str, Any]) -> M:
    """Return `data`, which stands in the document, as `schema`, with the same errors."""
    try:
        return schema.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, document, schema))) from None


def explain(error: ValidationError, document: Document, schema: type[BaseModel]) -> list[str]:
    """Return one message per fault, in the order of the file's schema."""
    said: dict[tuple[Place, str], str] = {}
    faults = [(fault, *_walk(fault["loc"], schema)) for fault in error.errors()]
    tried = {(meant.place, meant.kind) for *_, meant in faults if meant}
    for fault, place, allowed, slot, meant in faults:
        side = meant and _meant(document, meant.place)
        if meant is None or meant.kind == side or (meant.place, side) not in tried:
            message = _explain_one(fault, document, place, allowed, slot)
            said.setdefault((place, "" if meant else message), message)
    return list(said.values())


class _Tried(NamedTuple):
    """One of several types that a place may have: a plain value, or a section."""

    place: Place
    kind: Literal["value", "section"]


def _meant(document: Document, place: Place) -> str:
    """Return which side of a choice between a plain value and a section the file takes."""
    given: Any = document.data
    for step in place:
        try:
            given = given[step]
        except (KeyError, IndexError, TypeError):
            return "value"  # it is not there at all
    return "section" if isinstance(given, dict) else "value"


def _explain_one(
    fault: Any, document: Document, place: Place, allowed: list[str], slot: Any
) -> str:
    kind, given = fault["type"], fault.get("input")
    if kind == "extra_forbidden":
        key = str(place[-1])
        said = f"no key {key!r}" + suggest(key, allowed)
    elif kind == "missing":
        said = f"is missing; {fault['msg'].lower()}."
    elif kind == "union_tag_invalid":
        place = (*place, "name")
        tag = fault["ctx"]["tag"]
        said = f"no component {tag!r}" + suggest(tag, _quoted(fault["ctx"]["expected_tags"]))
    elif kind == "literal_error" and place[-1] == "name":  # an axis with one entry
        said = f"no component {given!r}" + suggest(str(given), _quoted(fault["ctx"]["expected"]))
    elif kind in ("union_tag_not_found", "model_type", "dict_type"):
        said = f"got {given!r}; a mapping of keys to values is needed" + _named(slot)
    else:
        said = f"{_lower(fault['msg'])}; got {given!r} ({type(given).__name__})."
    return str(document.wrong(place, said))


def _walk(loc: tuple[str | int, ...], schema: Any) -> tuple[Place, list[str], Any, _Tried | None]:
    """Follow pydantic's location through the schema.

    Return the place in the file (pydantic also names the union's tag), the keys allowed in the
    mapping that holds the last step, the type at that step where it is known, and, where one of
    several types was tried, which.
    """
    place: list[str | int] = []
    meant: _Tried | None = None
    allowed: list[str] = []
    here: Any = schema
    for step in loc:
        if isinstance(here, type) and issubclass(here, BaseModel):
            allowed = list(here.model_fields)
            place.append(step)
            info = here.model_fields.get(str(step))
            here = _bare(info.annotation) if info else None
        elif isinstance(here, dict):  # a union told apart by name: the step is its tag
            here = here.get(step)
        elif _is_union(here):  # one of several types: the step is the name of the one tried
            sections = {o.__name__: o for o in typing.get_args(here) if _is_section(o)}
            meant = _Tried(tuple(place), "section" if step in sections else "value")
            here = sections.get(str(step))
        elif typing.get_origin(here) is dict:
            place.append(step)
            here = _bare(typing.get_args(here)[1])
        else:
            place.append(step)
            here = None
    return tuple(place), allowed, here, meant


def _named(slot: Any) -> str:
    """Say how to choose where `slot` is an axis: {tag: spec}, or its only spec."""
    if isinstance(slot, type) and issubclass(slot, Spec):
        slot = _by_name([slot])
    names = list(slot) if isinstance(slot, dict) else []
    return f", with one of the names {', '.join(names)}: {{name: {names[0]}}}." if names else "."


def _by_name(specs: list[type[BaseModel]]) -> dict[str, type[BaseModel]]:
    return {typing.get_args(spec.model_fields["name"].annotation)[0]: spec for spec in specs}


def _bare(annotation: Any) -> Any:
    """Strip Annotated; turn a union of specs into {tag: spec}."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    given = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    options = [option for option in given if option is not type(None)]
    if len(options) == 1:
        return options[0]
    named = all(_is_section(option) and issubclass(option, Spec) for option in options)
    return _by_name(options) if named else annotation


def _is_section(option: Any) -> bool:
    return isinstance(option, type) and issubclass(option, BaseModel)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _quoted(names: str) -> list[str]:
    """Return a and b of pydantic's `'a', 'b'` or `'a' or 'b'`."""
    return re.findall(r"'([^']*)'", names)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
