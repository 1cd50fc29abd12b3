"""YAML -> one frozen, fully resolved configuration with a digest.

The schema is assembled from the registries at load time, so a component registered by a plugin is
checked, listed and suggested like one of the package's own.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, PrivateAttr, create_model

from hymba_lab.config.located import locate
from hymba_lab.config.messages import checked_as
from hymba_lab.config.plugins import added_by_others, load_entry_points, load_plugin, loaded_as
from hymba_lab.config.shipped import PREFIX, named
from hymba_lab.config.stages import Stages, by_label, filled_in
from hymba_lab.config.start import Start, start_of
from hymba_lab.config.trust import refuse_strangers, remember
from hymba_lab.config.yaml_file import Document, Place, merged, parse_value, read_yaml
from hymba_lab.errors import ConfigError, UserError
from hymba_lab.registry import LATER, Registry, Section, Spec

Blamed = TypeVar("Blamed", bound=UserError)
Positive = Annotated[int, Field(ge=1, le=2**31)]

PER_LAYER = ("heads", "attention", "ssm", "fusion", "mlp")
ABSENT = {"short_conv": "none", "topology": "sa_m"}
"""What a file need not name, because it came later, and what it then is."""

# What can change without changing a result; left out of the digest.
COSMETIC = (
    "name",
    "description",
    "scale",
    "plugins",
    "tokenizer",  # told to each source
    "paths_from",
    "start_from",  # what it holds is in start_weights
    "training.log_every",
    "training.checkpoint_every",
    "training.micro_rows",
    "training.recompute",
    "training.compile",
    "training.devices",
    "training.shard",
    "training.shard_checkpoints",
)


def _absent(key: str) -> Spec:
    return all_registries()[f"model.{key}"].spec(ABSENT[key])


class Layers(Section):
    """What is different in some layers: every part given replaces the model's own there."""

    at: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    heads: Spec | None = None
    attention: Spec | None = None
    ssm: Spec | None = None
    fusion: Spec | None = None
    mlp: Spec | None = None


class ModelConfig(Section):
    """The architecture: one slot per axis, and the shape they share."""

    d_model: Annotated[int, Field(ge=1, le=2**20)]
    n_layers: Annotated[int, Field(ge=1, le=10_000)]
    vocab: Positive | None = None  # None = what the data needs
    tie_embeddings: bool = True
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    init_std: Annotated[float, Field(gt=0)] = 0.02
    embedding_std: Annotated[float, Field(gt=0)] | None = None  # None = init_std
    heads: Spec
    order: Spec
    fusion: Spec
    meta_tokens: Spec
    placement: Spec
    kv_sharing: Spec
    attention: Spec
    ssm: Spec
    mlp: Spec
    short_conv: Annotated[Spec, LATER] = Field(default_factory=partial(_absent, "short_conv"))
    topology: Annotated[Spec, LATER] = Field(default_factory=partial(_absent, "topology"))
    layers: Annotated[tuple[Layers, ...], LATER] = ()

    def at(self, layer: int) -> "ModelConfig":
        """Return the configuration of one layer: this one, with what `layers` replaces there."""
        changed: dict[str, Spec] = {}
        for part in self.layers:
            if max(part.at) >= self.n_layers:
                raise ConfigError(
                    f"at: {list(part.at)} names a layer that is none of 0..{self.n_layers - 1}.",
                    "model.layers",
                )
            if layer in part.at:
                changed |= {
                    key: spec for key in PER_LAYER if (spec := getattr(part, key)) is not None
                }
        return self.model_copy(update=changed) if changed else self


class TrainingConfig(Section):
    """The budget and what is done along the way; intervals are in steps."""

    seq_len: Annotated[int, Field(ge=1, le=2**24)]
    tokens: Annotated[int, Field(ge=1, le=10**15)]
    precision: Literal["fp32", "bf16-mixed", "bf16-true"] = "fp32"
    grad_clip: Annotated[float, Field(gt=0)] | None = 1.0
    val_every: Positive
    log_every: Positive = 10
    checkpoint_every: Positive = 200
    # How the machine computes a step; the batch and what is learned stay what they are.
    micro_rows: Positive | Literal["auto"] | None = None  # rows at a time; None = all
    recompute: bool = False  # blocks once more in the backward, to keep less of them
    compile: bool = False  # blocks by torch.compile
    devices: Positive = 1
    shard: bool = False  # weights and optimizer over the devices (FSDP2), not a copy on each
    shard_checkpoints: bool = False  # every device writes its part


class Config(Section):
    """One experiment, every default filled in. Seeds are given beside it, not in it."""

    name: str
    description: str = ""
    scale: str
    plugins: list[str] = []
    tokenizer: Annotated[str | None, LATER] = None  # of every source of text that names none
    paths_from: Annotated[dict[str, str], LATER] = {}  # by place in `data`; filled in, not given
    start_from: Annotated[str | None, LATER] = None  # runs/<id> or a checkpoint: its weights
    start_weights: Annotated[str | None, LATER] = None  # sha256 they must have; else filled in
    model: ModelConfig
    data: Annotated[dict[str, Spec], Field(min_length=1)]
    optimizer: Spec
    schedule: Spec
    training: TrainingConfig
    stages: Annotated[Stages, LATER] = {}  # what follows: tuning, evaluation

    _plugin_hashes: list[str] = PrivateAttr(default_factory=list)
    _document: Document | None = PrivateAttr(default=None)
    _start_path: Path | None = PrivateAttr(default=None)

    @property
    def start_path(self) -> Path | None:
        """Where the weights that the run starts from are; None for a start from nothing."""
        return self._start_path

    @property
    def n_steps(self) -> int:
        """Optimizer steps that the budget of tokens pays for."""
        rows = sum(int(source.options()["rows"]) for source in self.data.values())
        return self.training.tokens // (rows * self.training.seq_len)

    def resolved(self) -> dict[str, Any]:
        """Return plain JSON data from which `from_resolved` makes the same configuration."""
        data = self.model_dump(mode="json", serialize_as_any=True)
        for key in ("tokenizer", "paths_from", "start_from", "start_weights", "stages"):
            if not data[key]:
                del data[key]
        return data

    @property
    def digest(self) -> str:
        """sha256 of the canonical configuration without what cannot change a result."""
        data = self.canonical()
        for path in COSMETIC:
            section, _, key = path.rpartition(".")
            (data[section] if section else data).pop(key, None)
        if self.stages:  # in their order, which a mapping's digest would not tell
            data["stages"] = [[label, stage.canonical()] for label, stage in self.stages.items()]
        data["plugins"] = self._plugin_hashes
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def blame(self, error: Blamed) -> Blamed:
        """Return the error of a component or of its data with file:line:column in front."""
        where = self._document.where((error.path or "").split(".")) if self._document else ""
        said = ": ".join(part for part in (where, error.path, str(error)) if part)
        return type(error)(said)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Load an experiment file with `extends:` and `--set` overrides applied."""
    return resolve(load_document(Path(path), overrides))


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
    schema = _config_type(tuple(names), *hashes)
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
        data = {**data, "plugins": [str(path.resolve()) for path in plugins]}
    elif not own and isinstance(listed, list):
        here = [
            str(loaded_as(name) or name) if isinstance(name, str) and not Path(name).is_file()
            else name
            for name in listed
        ]  # fmt: skip
        refuse_strangers(here, source)
        data = {**data, "plugins": here}
    return resolve(Document(data, {(): source}))


def all_registries() -> dict[str, Registry[Any]]:
    """Return every registry by its path; imports torch."""
    from hymba_lab.components import (  # noqa: F401 - an entry in a file of its own registers itself
        attention,
        fusion,
        gated_delta,
        gla,
        heads,
        kimi_delta,
        kv_sharing,
        mamba2,
        mamba3,
        meta_tokens,
        mlp,
        order,
        placement,
        short_conv,
        ssm,
        topology,
    )
    from hymba_lab.data.source import datasets
    from hymba_lab.optim import muon  # noqa: F401 - registers itself
    from hymba_lab.optim.optimizers import optimizers
    from hymba_lab.optim.schedules import schedules

    found: list[Registry[Any]] = [
        heads.heads, order.orders, fusion.fusions, meta_tokens.meta_tokens, placement.placements,
        kv_sharing.kv_sharings, attention.attentions, ssm.ssms, mlp.mlps,
        short_conv.short_convs, topology.topologies,
        datasets, optimizers, schedules,
    ]  # fmt: skip
    return {registry.path: registry for registry in found}


@lru_cache(maxsize=8)
def _config_type(names: tuple[tuple[str, ...], ...], *plugin_hashes: str) -> type[Config]:
    """Return `Config` with every slot narrowed to the components registered now."""
    slots = {
        path: registry.schema(allowed)
        for (path, registry), allowed in zip(all_registries().items(), names, strict=True)
    }
    model: dict[str, Any] = {
        path.removeprefix("model."): (schema, ...)
        for path, schema in slots.items()
        if path.startswith("model.")
    }
    other: dict[str, Any] = {key: (model[key][0] | None, None) for key in PER_LAYER}
    layers = create_model("Layers", __base__=Layers, **other)
    model["layers"] = (Annotated[tuple[layers, ...], LATER], ())  # type: ignore[valid-type]
    for key in ABSENT:
        default = Field(default_factory=partial(_absent, key))
        model[key] = (Annotated[model[key][0], LATER], default)
    label = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    sources: Any = GenericAlias(dict, (label, slots["data"]))  # dict[label, ...], made at run time
    parts: dict[str, Any] = {
        "model": (create_model("ModelConfig", __base__=ModelConfig, **model), ...),
        "data": (Annotated[sources, Field(min_length=1)], ...),
        "optimizer": (slots["optimizer"], ...),
        "schedule": (slots["schedule"], ...),
    }
    return create_model("Config", __base__=Config, **parts)


def _with_base(path: Path, children: tuple[Path, ...]) -> Document:
    if path.resolve() in children:
        chain = " -> ".join(str(child) for child in (*children, path.resolve()))
        raise ConfigError(f"{path}: extends itself: {chain}.")
    document = read_yaml(path)
    base = document.data.pop("extends", None)
    listed = document.data.get("plugins")
    if isinstance(listed, list):  # paths are relative to the file that lists them
        document.data["plugins"] = [
            str((path.parent / name).resolve()) if isinstance(name, str) else name
            for name in listed
        ]
    if base is None:
        return document
    if not isinstance(base, str):
        raise document.wrong(["extends"], f"{base!r} is not a file name.")
    try:
        below = _with_base(base_file(path, base), (*children, path.resolve()))
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
    return [Path(name).resolve() for name in listed]
