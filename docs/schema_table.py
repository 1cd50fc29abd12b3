"""A model of the schema as a table of Markdown: keys, types, defaults, and what they mean."""

import html
import inspect
import re
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel


def models_below(model: type[BaseModel]) -> list[type[BaseModel]]:
    """Return the sections that stand below a model, each once, in the order of its keys."""
    found: list[type[BaseModel]] = []
    for info in model.model_fields.values():
        for inner in _sections(info.annotation):
            found += [one for one in [inner, *models_below(inner)] if one not in found]
    return found


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [one for inner in getattr(annotation, "__args__", ()) for one in _sections(inner)]


def keys(model: type[BaseModel], examples: dict[str, str] = {}) -> str:
    """Return every key of a model as a table: type, default, meaning, an example where given."""
    said = comments(model)
    head = "| key | type | default | what it is |\n|---|---|---|---|\n"
    lines = []
    for name, info in model.model_fields.items():
        missing = info.get_default(call_default_factory=True)
        default = "required" if info.is_required() else f"`{_plain(missing)}`"
        example = f"<br>`{examples[name]}`" if examples else ""
        cells = [f"`{name}`", f"`{type_of(info.annotation)}`", default, said[name] + example]
        lines.append("| " + " | ".join(map(cell, cells)) + " |\n")
    return head + "".join(lines)


def cell(text: str) -> str:
    """Return `text` with its bars as entities: a backslash would be shown inside code."""
    parts = text.split("`")
    parts[1::2] = [
        f"<code>{html.escape(code).replace('|', '&#124;')}</code>" if "|" in code else f"`{code}`"
        for code in parts[1::2]
    ]
    return "".join(parts).replace("|", "&#124;")


def _plain(value: Any) -> str:
    return (
        "{" + ", ".join(f"{k}: {v}" for k, v in value.model_dump().items()) + "}"
        if isinstance(value, BaseModel)
        else repr(value)
    )


def type_of(annotation: Any) -> str:
    """Return a type as a reader would write it: bounds left out, choices in full."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_of(inside[0])
    if origin in (Union, UnionType):
        return " | ".join(map(type_of, inside))
    if origin is Literal:
        return " | ".join(map(repr, inside))
    name = getattr(origin or annotation, "__name__", str(annotation)).replace("NoneType", "None")
    if origin is None or name == "Callable":
        return "..." if annotation is Ellipsis else name
    return f"{name}[{', '.join(map(type_of, inside))}]"


def comments(model: type[BaseModel]) -> dict[str, str]:
    """Return the comment behind every key of a model's source: its meaning."""
    said = dict.fromkeys(model.model_fields, "")
    for line in inspect.getsource(model).splitlines():
        found = re.match(r"    (\w+): .*?  # (.+)$", line)
        if found and found[1] in said:
            said[found[1]] = found[2]
    return said
