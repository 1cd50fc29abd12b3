"""A YAML file, what it extends and the command line's overrides -> a configuration."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hymba_lab.config.kinds import refuse_another
from hymba_lab.config.located import locate
from hymba_lab.config.messages import checked_as
from hymba_lab.config.narrowed import config_type
from hymba_lab.config.plugins import added_by_others, load_entry_points, load_plugin, loaded_as
from hymba_lab.config.registries import all_registries
from hymba_lab.config.schema import Config
from hymba_lab.config.shipped import PREFIX, named
from hymba_lab.config.stages import by_label, filled_in
from hymba_lab.config.start import Start, start_of
from hymba_lab.config.trust import refuse_strangers, remember
from hymba_lab.config.yaml_file import Document, Place, merged, parse_value, read_yaml
from hymba_lab.errors import ConfigError
from hymba_lab.registry import Spec


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Load an experiment file with `extends:` and `--set` overrides applied."""
    document = load_document(Path(path), overrides)
    refuse_another(document.data, Path(path), "an experiment")
    return resolve(document)


def load_document(path: Path, overrides: Sequence[str] = ()) -> Document:
    """Read a file, what it extends and overrides (`a.b=value`), without checking the schema."""
    return overridden(by_label(_with_base(path, ())), overrides)


def overridden(document: Document, overrides: Sequence[str]) -> Document:
    """Return a document with the command line's overrides (`a.b=value`) put in place."""
    for number, text in enumerate(overrides, start=1):
        key, equals, value = text.partition("=")
        mark = f"--set {text}" if len(overrides) == 1 else f"--set #{number} {text}"
        if not equals or not key.strip():
            raise ConfigError(f"{mark}: write --set path.to.key=value.")
        document = document.patched(key.strip(), parse_value(value, mark), mark)
    return document


def resolve(document: Document) -> Config:
    """Check a document against the schema; all its errors are reported together."""
    registries = all_registries().values()
    document = by_label(document)
    load_entry_points()
    paths = _plugin_paths(document)
    hashes = [load_plugin(path, list(registries)) for path in paths]
    foreign = added_by_others(paths)  # would be missing in another process, and in the digest
    names = (
        tuple(name for name in registry if (registry.path, name) not in foreign)
        for registry in registries
    )
    remember(hashes)
    schema = config_type(tuple(names), *hashes)
    document = _with_tokenizer(document)
    data = {**document.data, "plugins": [str(path) for path in paths]}
    config = checked_as(document, schema, data)
    folders = _located(config, document)
    changed: dict[str, Any] = {"paths_from": folders}
    if config.stages:
        _require_one_device(config, document)
        changed["stages"] = filled_in(config.stages, document)
    start = _start(config, document)
    if start is not None:
        folders["start_from"], changed["start_weights"] = start.folder, start.sha256
    config = config.model_copy(update=changed)
    config._plugin_hashes, config._document = hashes, document
    config._start_path = start and start.path
    return config


def _located(config: Config, document: Document) -> dict[str, str]:
    specs: dict[Place, Spec] = {("data", label): spec for label, spec in config.data.items()}
    specs |= {("stages", label): spec for label, spec in config.stages.items()}
    return locate(specs, document, config.paths_from)


def _require_one_device(config: Config, document: Document) -> None:
    if config.training.devices > 1:
        said = f"{config.training.devices}, but stages are tuned on one; run them on their own."
        raise document.wrong(["training", "devices"], said)


def _start(config: Config, document: Document) -> Start | None:
    if config.start_from is None:
        if config.start_weights is not None:
            raise document.wrong(
                ["start_weights"], "is the sha256 of start_from, which is not given."
            )
        return None
    known = config.paths_from.get("start_from")
    return start_of(config.start_from, config.start_weights, document, known)


def _with_tokenizer(document: Document) -> Document:
    """Return the document with the experiment's tokenizer at every source of text without one."""
    named, sources = document.data.get("tokenizer"), document.data.get("data")
    if not isinstance(named, str) or not isinstance(sources, dict):
        return document
    datasets = all_registries()["data"]
    for label, source in sources.items():
        name = str(source.get("name")) if isinstance(source, dict) else ""
        takes = name in datasets and "tokenizer_file" in datasets.options(name)
        if takes and not {"tokenizer", "tokenizer_file"} & set(source):
            mark = document.where(["tokenizer"])
            document = document.patched(f"data.{label}.tokenizer_file", named, mark)
    return document


def from_resolved(
    data: dict[str, Any],
    *,
    own: bool = False,
    plugins: Sequence[Path] = (),
    source: str = "resolved configuration",
) -> Config:
    """Return the configuration that `Config.resolved` wrote; `source` names where it stands.

    The plugins that it lists are code, so they run only where they are the user's own
    (`config/trust.py`): named in `plugins`, which then stand for them; or of a content that ran for
    the user before; or loaded in this process under the same file name; or when the caller wrote
    `data` for itself (`own`). Raises `ConfigError` for others, before anything is imported.
    """
    listed = data.get("plugins")
    if plugins:
        data = {**data, "plugins": [os.path.realpath(path) for path in plugins]}
    elif not own and isinstance(listed, list):
        here = [
            str(loaded_as(name) or name) if isinstance(name, str) and not Path(name).is_file()
            else name
            for name in listed
        ]  # fmt: skip
        refuse_strangers(here, source)
        data = {**data, "plugins": here}
    return resolve(Document(data, {(): source}))


def _with_base(path: Path, children: tuple[Path, ...]) -> Document:
    here = Path(os.path.realpath(path))  # resolve() raises where links go round
    if here in children:
        chain = " -> ".join(str(child) for child in (*children, here))
        raise ConfigError(f"{path}: extends itself: {chain}.")
    document = read_yaml(path)
    base = document.data.pop("extends", None)
    listed = document.data.get("plugins")
    if isinstance(listed, list):  # paths are relative to the file that lists them
        document.data["plugins"] = [
            os.path.realpath(path.parent / name) if isinstance(name, str) else name
            for name in listed
        ]
    if base is None:
        return document
    if not isinstance(base, str):
        raise document.wrong(["extends"], f"{base!r} is not a file name.")
    try:
        below = _with_base(base_file(path, base), (*children, here))
    except ConfigError as error:
        raise ConfigError(f"{error}\n  which {document.where(['extends'])} extends.") from None
    return merged(below, document)


def base_file(path: Path, base: str) -> Path:
    """Return the file that `extends:` or `base:` of `path` names: a shipped one, or beside it."""
    if base.startswith(PREFIX):
        return named(base.removeprefix(PREFIX), "experiments")
    return path.parent / base


def _plugin_paths(document: Document) -> list[Path]:
    listed = document.data.get("plugins") or []
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise document.wrong(["plugins"], f"{listed!r} is not a list of Python files.")
    for place, name in enumerate(listed):
        if not Path(name).is_file():
            said = f"there is no file {name}; paths are relative to the YAML file that lists them."
            raise document.wrong(["plugins", place], said)
    return [Path(os.path.realpath(name)) for name in listed]
