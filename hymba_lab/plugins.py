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

from hymba_lab.errors import ConfigError
from hymba_lab.registry import Registry

ENTRY_POINTS = "hymba_lab.plugins"

_loaded: dict[
    Path, tuple[str, list[tuple[Registry[Any], str]]]
] = {}  # file -> its hash, what it added


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
    for registry, name in added:
        registry.remove(name)
    before = {id(registry): set(registry) for registry in registries}
    _execute(path, sha256)
    _loaded[path] = (
        sha256,
        [
            (registry, name)
            for registry in registries
            for name in set(registry) - before[id(registry)]
        ],
    )
    return sha256


@cache
def load_entry_points() -> None:
    """Import the plugins that installed packages declare under `hymba_lab.plugins`."""
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:
            raise ConfigError(
                f"entry point {point.name} = {point.value} of group {ENTRY_POINTS}: "
                f"{type(error).__name__}: {error}; mend or uninstall its package."
            ) from error


def _execute(path: Path, sha256: str) -> None:
    name = f"hymba_lab_plugin_{path.stem}_{sha256[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: a plugin is a Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles of the plugin look it up here
    try:
        spec.loader.exec_module(module)
    except ConfigError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        line = lines[-1] if lines else getattr(error, "lineno", None) or 1
        raise ConfigError(f"{path}:{line}: {type(error).__name__}: {error}") from error
