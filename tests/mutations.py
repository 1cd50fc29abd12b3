"""Files as they should not be: seeded mutations of YAML texts and of files on disk."""

import json
import math
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

# what people, programs and attackers write where something else belongs
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 255, 1000, 65536, 2**31, 2**32, 2**53 + 1, 2**63, 2**64,
    10**18, 10**30, -(2**63), 0.0, -0.0, 0.5, 1e-40, 1e-300, 1e300, 3.0, math.pi, "", " ", "x",
    "nan", "inf", "-1", "1e3", "0x10", "1_000", "\u00e9", "a\u0301", "\U0001f600", "[/x]", "[bold]",
    "=1+1", "@a", "../..", "/dev/zero", "/", "~", "*", "$word", "${x}", "%s", "a\nb", "a\tb", "#",
    [], {}, [0], [0, 0], [[]], {"name": "mean"}, {"name": "x"}, {"": 1}, {"a.b": 1}, ["x"] * 50,
    "val/loss", "val/recall_accuracy_auc", "cost/params", "baseline", "model.n_layers",
    "model.mlp.d_ff", "training.tokens", "data", "tiny.yaml", "sweep.yaml", "x" * 5000,
]  # fmt: skip
TEXTS = [b"\t", b"\0", b"\xff\xfe", b"\r", b"---\n", b"...\n", b"&a ", b"*a ", b"!!python/name:os ",
         b"!!float ", b"<<: ", b"? ", b": ", b"- ", b"{", b"}", b"[", b"]", b"'", b'"', b"|", b">",
         b"\xe2\x80\xa8", b"\xc3", b"%YAML 9.9\n", b"# " + b"x" * 2000]  # fmt: skip


def mutated(text: str, chance: random.Random) -> bytes:
    """Return a file's text changed at one to three places, in its tree or in its letters."""
    if chance.random() < 0.3:
        return _letters(text.encode(), chance)
    tree = load_document_text(text)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        _change(tree, chance)
    return json.dumps(tree, ensure_ascii=False).encode("utf-8", "surrogatepass")


def load_document_text(text: str) -> dict[str, Any]:
    from hymba_lab.config.yaml_file import parse_yaml

    return parse_yaml(text, "file").data


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) of the tree."""
    found = []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(items):
        found.append((tree, key))
        if isinstance(value, dict | list):
            found += _places(value)
    return found


def _change(tree: dict[str, Any], chance: random.Random) -> None:
    places = _places(tree)
    if not places:
        return
    holder, key = chance.choice(places)
    kind = chance.choice(("value", "value", "value", "other", "drop", "rename", "wrap", "deep"))
    if kind == "value":
        holder[key] = chance.choice(VALUES)
    elif kind == "other":
        other, name = chance.choice(places)
        holder[key] = json.loads(json.dumps(other[name]))
    elif kind == "drop":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        value = holder.pop(key)
        new = chance.choice([str(one) for one in VALUES])
        holder[new[:300]] = value
    elif kind == "wrap":
        holder[key] = chance.choice(([holder[key]], {"name": holder[key]}, {"x": holder[key]}))
    elif kind == "deep":
        deep: Any = holder[key]
        for _ in range(chance.choice((3, 60, 200))):
            deep = [deep]
        holder[key] = deep


def _letters(text: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(text))
    kind = chance.choice(("insert", "cut", "line", "number", "twice"))
    if kind == "insert":
        return text[:at] + chance.choice(TEXTS) + text[at:]
    if kind == "cut":
        return text[:at]
    lines = text.splitlines(keepends=True)
    line = chance.randrange(len(lines))
    if kind == "line":
        return b"".join(lines[:line] + lines[line + 1 :])
    if kind == "twice":
        return b"".join(lines[:line] + [lines[line]] * 2 + lines[line + 1 :])
    numbers = list(re.finditer(rb"\d+", text))
    found = chance.choice(numbers)
    new = str(chance.choice((0, -1, 2**31, 2**63, 10**18, 10**40, "1e9", ".nan"))).encode()
    return text[: found.start()] + new + text[found.end() :]


def damage(path: Path, chance: random.Random) -> str:
    """Damage one file of a store in one of the ways that disks and people do; say which."""
    ways: list[Callable[[Path, random.Random], None]] = [
        _truncated, _empty, _garbage, _flipped, _deleted, _folder, _fifo, _not_ours, _dangling,
    ]  # fmt: skip
    way = chance.choice(ways)
    way(path, chance)
    return f"{way.__name__.strip('_')} {path.name}"


def _truncated(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(max(1, path.stat().st_size)))


def _empty(path: Path, chance: random.Random) -> None:
    path.write_bytes(b"")


def _garbage(path: Path, chance: random.Random) -> None:
    path.write_bytes(chance.randbytes(1000))


def _flipped(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes() or b"x")
    for _ in range(8):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def _deleted(path: Path, chance: random.Random) -> None:
    path.unlink()


def _folder(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path, chance: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _not_ours(path: Path, chance: random.Random) -> None:
    """As it comes out of an archive of somebody else's: not to be written."""
    path.chmod(0o400)


def _dangling(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.symlink_to("/nonexistent/elsewhere")


def copied(source: Path, to: Path) -> Path:
    return Path(shutil.copytree(source, to))


__all__ = ["copied", "damage", "mutated"]
