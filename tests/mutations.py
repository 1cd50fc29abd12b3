"""Files as they should not be: seeded mutations of YAML texts and of files on disk."""

import json
import math
import os
import random
import re
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

OTHER_USER = 65534  # neither the one who tests nor the one who runs the sweep

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
        _of_another_user, _in_anothers_folder, _from_the_future, _from_the_future,
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


def _of_another_user(path: Path, chance: random.Random) -> None:
    """Somebody else's, who lets nobody read it; means nothing to one who may read all."""
    _give_away(path)
    path.chmod(0o600)


def _in_anothers_folder(path: Path, chance: random.Random) -> None:
    """Its folder is somebody else's: it can be read and not replaced, or not even listed."""
    _give_away(path.parent)
    path.parent.chmod(chance.choice((0o755, 0o711, 0o700)))


def _give_away(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, OTHER_USER, OTHER_USER)


def _from_the_future(path: Path, chance: random.Random) -> None:
    """Written by a later version of its program, by a clock that was years ahead."""
    if path.suffix == ".json":
        _later_json(path)
    elif path.suffix == ".db":
        _later_database(path)
    elif path.suffix == ".ckpt":
        _later_checkpoint(path)
    elif path.suffix == ".safetensors":
        _later_weights(path)
    ahead = time.time() + 10 * 365 * 86400
    os.utime(path, (ahead, ahead))


def _later_json(path: Path) -> None:
    try:
        found = json.loads(path.read_text())
    except ValueError:
        return
    if isinstance(found, dict):
        path.write_text(json.dumps({**found, "format": 2, "code_version": 99, "later": [1]}))


def _later_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        tables = {row[0] for row in database.execute("select name from sqlite_master")}
        if "alembic_version" in tables:
            database.execute("update alembic_version set version_num = 'ffffffffffff'")
        if "version_info" in tables:  # Optuna's own
            database.execute("update version_info set schema_version = 99")
        database.execute("create table of_a_later_version (x integer)")


def _later_checkpoint(path: Path) -> None:
    import torch

    found = torch.load(path, weights_only=True)
    found["hymba_lab"] = {**found["hymba_lab"], "format": 2}
    torch.save(found, path)


def _later_weights(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file(load_file(path), path, {"hymba_lab": json.dumps({"format": 2})})


def _dangling(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.symlink_to("/nonexistent/elsewhere")


def copied(source: Path, to: Path) -> Path:
    return Path(shutil.copytree(source, to))


__all__ = ["copied", "damage", "mutated"]
