"""A user's own components: files listed under `plugins:` and installed entry points.

A plugin is an ordinary Python file that registers components on import. Nothing else named in a
configuration is ever imported or evaluated.
"""

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hymba_lab.errors import ConfigError, last_line
from hymba_lab.registry import Registry

ENTRY_POINTS = "hymba_lab.plugins"

Entries = list[tuple[Registry[Any], str]]

_loaded: dict[Path, tuple[str, Entries]] = {}  # file -> its hash, what it added


def load_plugin(path: Path, registries: Sequence[Registry[Any]]) -> str:
    """Import one file, once per content, and return the sha256 of its source.

    A file that changed since replaces what it registered before.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: the plugin cannot be read: {error.strerror}.") from None
    sha256 = hashlib.sha256(source).hexdigest()
    known, added = _loaded.get(path, ("", []))
    if known == sha256:
        return sha256
    _loaded.pop(path, None)
    _forget(added)
    before = {id(registry): set(registry) for registry in registries}
    try:
        _execute(path, source, sha256)
    except ConfigError:  # what it registered before it failed would stand in the mended file's way
        _forget(_added(registries, before))
        raise
    _loaded[path] = (sha256, _added(registries, before))
    return sha256


def place_of(error: BaseException) -> str | None:
    """Return file:line of the last line of a plugin that an error passed; None for no plugin's."""
    files = {str(path) for path in _loaded}
    passed = last_line(error, files)
    return f"{passed[0]}:{passed[1]}" if passed else None


def loaded_as(name: str) -> Path | None:
    """Return the plugin of this file name that was loaded in this process, None for none."""
    return next((path for path in _loaded if path.name == Path(name).name), None)


def added_by(listed: Sequence[Path]) -> Entries:
    """Return (axis, name) of what the listed plugins have registered in this process."""
    return [entry for path in listed for entry in _loaded.get(path, ("", []))[1]]


def added_by_others(listed: Sequence[Path]) -> set[tuple[str, str]]:
    """Return (axis, name) of what plugins outside the list have registered in this process."""
    return {
        (registry.path, name)
        for path, (_, added) in _loaded.items()
        if path not in listed
        for registry, name in added
    }


@cache
def load_entry_points() -> None:
    """Import the plugins that installed packages declare under `hymba_lab.plugins`."""
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # sys.exit, too: it would look like success
            raise ConfigError(
                f"entry point {point.name} = {point.value} of group {ENTRY_POINTS}: "
                f"{type(error).__name__}: {error}; mend or uninstall its package."
            ) from error


def _added(registries: Sequence[Registry[Any]], before: dict[int, set[str]]) -> Entries:
    return [
        (registry, name) for registry in registries for name in set(registry) - before[id(registry)]
    ]


def _forget(entries: Entries) -> None:
    for registry, name in entries:
        registry.remove(name)


def _execute(path: Path, source: bytes, sha256: str) -> None:
    """Run the very text that was hashed; Python's own loader might take an older `.pyc`."""
    name = f"hymba_lab_plugin_{path.stem}_{sha256[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise ConfigError(f"{path}: a plugin is a Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles of the plugin look it up here
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit, too: it would look like success
        del sys.modules[name]
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        line = lines[-1] if lines else getattr(error, "lineno", None) or 1
        said = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        raise ConfigError(f"{path}:{line}: {said}") from error
