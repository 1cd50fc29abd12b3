"""The direction of imports: the floors of docs/architecture.md, and nothing that runs back up."""

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hymba_lab"

# from the ground up; a room imports from floors below its own, and from itself
FLOORS = (
    ("errors",),
    ("registry", "flags", "atomic"),
    ("ops", "stats", "cli", "processes"),
    ("components", "data", "optim", "tables"),
    ("config",),
    ("model", "runs"),
    ("checkpoints", "cost", "figures"),
    ("training", "hf", "dialogue"),
    ("evaluation", "testing", "finetune"),
    ("stages",),
    ("sweep", "probes"),
    ("report", "claims"),
    ("commands",),
    ("__init__",),
    ("__main__",),
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, Path]:
    """Return every module by its dotted name; a package is its `__init__`."""
    named = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        named[name.removesuffix(".__init__")] = path
    return named


def imports() -> dict[str, set[str]]:
    """Return which of our modules a module imports, at any depth of its code."""
    known = modules()
    found: dict[str, set[str]] = defaultdict(set)
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                found[name].add("a relative import, of which nobody sees the floor")
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hymba_lab"):
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                found[name] |= {full if full in known else str(node.module) for full in whole}
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names if alias.name in known}
        found[name].discard(name)
    return found


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def test_every_room_has_a_floor() -> None:
    assert {room(name) for name in modules()} <= LEVEL.keys()


def test_no_import_runs_back_up() -> None:
    upward = [
        f"{name} imports {other}"
        for name, others in sorted(imports().items())
        for other in sorted(others)
        if room(name) != room(other) and LEVEL[room(other)] >= LEVEL[room(name)]
    ]
    assert not upward, "\n".join(upward)


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        pytest.fail("a circle: " + " -> ".join(error.args[1]))


def test_few_modules_lie_loose() -> None:
    loose = sorted(path.name for path in PACKAGE.glob("*.py") if path.name != "__init__.py")
    assert len(loose) <= 6, f"{loose}: give the newcomer a room"


def test_the_picture_shows_the_floors_as_they_are_tested() -> None:
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = text.split("```text\n", 1)[1].split("```", 1)[0].splitlines()
    drawn = [tuple(line.replace("|", " ").split()) for line in picture if line.strip()]
    assert drawn == list(reversed(FLOORS))
