"""Suites by name, or the task files of a folder; imports neither torch nor the harness."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hymba_lab.atomic import text_of
from hymba_lab.errors import UserError

SHIPPED = Path(__file__).with_name("suites.yaml")


class Asked(NamedTuple):
    """One task of a suite."""

    task: str
    """Its name in the harness, a task's or a group's."""
    n_shot: int | None
    """Examples before each question; None = what the task's own file says."""
    limit: int | None
    """The first so many questions; None = all."""
    folder: str
    """Where its files lie: below `lm_eval/tasks`, or a folder of the user's own."""
    note: str = ""
    """What a reader of the numbers has to know."""


class Suite(NamedTuple):
    """What is asked, and whether its files are the user's own."""

    name: str
    asked: tuple[Asked, ...]
    own: Path | None
    """The user's folder, or None."""


def names() -> list[str]:
    """Return the shipped suites."""
    return list(_shipped())


def suite_of(name: str, *, limit: int | None = None, n_shot: int | None = None) -> Suite:
    """Return a shipped suite or that of a folder; `limit` and `n_shot` replace its own.

    Raises `UserError` for what is neither, and for a folder without task files.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: give at least one question, or leave it out for all.")
    if n_shot is not None and not 0 <= n_shot <= 1000:
        raise UserError(f"--n-shot {n_shot}: give a number of examples from 0 on.")
    shipped = _shipped()
    if name in shipped:
        asked = [Asked(e["task"], e["n_shot"], e.get("limit"), e["folder"], e.get("note", ""))
                 for e in shipped[name]]  # fmt: skip
        own = None
    elif (own := Path(name)).is_dir():
        asked = [Asked(task, None, None, str(own)) for task in _tasks_of(own)]
    else:
        raise UserError(
            f"--suite {name}: neither a suite ({', '.join(shipped)}) nor a folder of task files "
            "(.yaml with a `task:`)."
        )
    chosen = [
        one._replace(
            limit=one.limit if limit is None else limit,
            n_shot=one.n_shot if n_shot is None else n_shot,
        )
        for one in asked
    ]
    return Suite(name, tuple(chosen), own)


def check_no_code(folder: Path) -> None:
    """Raise `UserError` where the task files of a folder name Python code, with file and line.

    They are read as the harness reads them, with whatever they include, of any name.
    """
    found: list[str] = []
    waiting, seen = sorted(folder.rglob("*.yaml")), set[Path]()
    while waiting:
        path = waiting.pop(0)
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        for line, said, included in _doubts(path):
            if included is None:
                found.append(f"{path}:{line}: {said}")
            elif not (path.parent / included).resolve().is_relative_to(folder.resolve()):
                found.append(f"{path}:{line}: {said} (outside of the folder)")
            else:
                waiting.append(path.parent / included)
    if found:
        raise UserError(
            "these task files name code, which is not run unasked:\n  "
            + "\n  ".join(found[:8])
            + "\nread it, then give --run-code to let the tasks run it."
        )


def _doubts(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """Yield (line, what stands there, file that it includes) of all that may lead to code."""
    import yaml

    text = _read(path)
    try:
        nodes: list[Any] = [yaml.compose(text, Loader=yaml.SafeLoader)]
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not a task file ({' '.join(str(error).split())}).") from None
    lines, seen = text.splitlines(), set[int]()
    while nodes:
        node = nodes.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        line = node.start_mark.line + 1
        if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
            yield line, lines[line - 1].strip(), None
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        if isinstance(node, yaml.MappingNode):
            nodes += [part for pair in node.value for part in pair]
            yield from _doubtful_keys(node, lines)


def _doubtful_keys(node: Any, lines: list[str]) -> Iterator[tuple[int, str, str | None]]:
    for key, value in node.value:
        line = key.start_mark.line + 1
        said = lines[line - 1].strip()
        if key.value == "unsafe_code" and str(value.value).lower() in ("true", "yes", "on"):
            yield line, said, None
        elif key.value == "include":
            files = value.value if isinstance(value.value, list) else [value]
            yield from ((line, said, str(file.value)) for file in files)


def _tasks_of(folder: Path) -> list[str]:
    """Return the tasks of a folder: groups take their members along."""
    tasks: list[str] = []
    members: set[str] = set()
    for path in sorted(folder.rglob("*.yaml")):
        text = _read(path)
        if match := re.search(
            r"^(?:task|group)\s*:\s*[\"']?([\w.:+-]+)[\"']?\s*(?:#.*)?$", text, re.M
        ):
            tasks.append(match[1])
        if re.search(r"^group\s*:", text, re.M):
            members |= set(re.findall(r"^\s*-\s*[\"']?([\w.:+-]+)[\"']?\s*$", text, re.M))
    if not tasks:
        raise UserError(f"{folder}: no task files; a task is a .yaml with `task: its_name`.")
    if twice := sorted({name for name in tasks if tasks.count(name) > 1}):
        raise UserError(f"{folder}: several files call themselves {', '.join(twice)}; rename one.")
    return [name for name in tasks if name not in members]


def _read(path: Path) -> str:
    try:
        return text_of(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a task file ({error}).") from None


def _shipped() -> dict[str, Sequence[dict[str, Any]]]:
    from ruamel.yaml import YAML

    content: dict[str, Sequence[dict[str, Any]]] = YAML(typ="safe").load(SHIPPED)
    return content
