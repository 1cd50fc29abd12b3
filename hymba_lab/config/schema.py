"""What an experiment says, every default filled in: one frozen configuration with a digest."""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, PrivateAttr

from hymba_lab.config.registries import absent
from hymba_lab.config.stages import Stages
from hymba_lab.config.yaml_file import Document
from hymba_lab.errors import ConfigError, UserError
from hymba_lab.registry import LATER, Section, Spec

Blamed = TypeVar("Blamed", bound=UserError)
Positive = Annotated[int, Field(ge=1, le=2**31)]

PER_LAYER = ("heads", "attention", "ssm", "fusion", "mlp")
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
    "training.cuda_graph",
    "training.devices",
    "training.shard",
    "training.shard_checkpoints",
)


class Layers(Section):
    """What is different in some layers: every part given replaces the model's own there."""

    at: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]  # which, from 0
    heads: Spec | None = None  # in place of the model's
    attention: Spec | None = None  # likewise
    ssm: Spec | None = None  # likewise
    fusion: Spec | None = None  # likewise
    mlp: Spec | None = None  # likewise


class ModelConfig(Section):
    """The architecture: one slot per axis, and the shape they share."""

    d_model: Annotated[int, Field(ge=1, le=2**20)]  # width of the residual stream [channels]
    n_layers: Annotated[int, Field(ge=1, le=2_000)]  # blocks
    vocab: Positive | None = None  # ids; None = what the data needs
    tie_embeddings: bool = True  # the head is the embedding
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6  # of every RMSNorm
    init_std: Annotated[float, Field(gt=0)] = 0.02  # of the weights of linear maps
    embedding_std: Annotated[float, Field(gt=0)] | None = None  # None = init_std
    heads: Spec  # branches and their widths
    order: Spec  # which layer has which branches
    fusion: Spec  # how two branches become one
    meta_tokens: Spec  # learned tokens in front
    placement: Spec  # which layers see everything, which a window
    kv_sharing: Spec  # which layers read another one's keys and values
    attention: Spec  # the attention branch
    ssm: Spec  # the recurrent branch
    mlp: Spec  # behind the mixer
    short_conv: Annotated[Spec, LATER] = Field(  # over a few tokens, before mixer or MLP
        default_factory=partial(absent, "short_conv")
    )
    topology: Annotated[Spec, LATER] = Field(  # mixer and MLP in turn, or side by side
        default_factory=partial(absent, "topology")
    )
    layers: Annotated[tuple[Layers, ...], LATER] = ()  # what some layers have of their own

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

    seq_len: Annotated[int, Field(ge=1, le=2**24)]  # tokens of a row, meta tokens not counted
    tokens: Annotated[int, Field(ge=1, le=10**15)]  # of the whole training, all sources
    precision: Literal["fp32", "bf16-mixed", "bf16-true"] = "fp32"  # bf16-true keeps fp32 masters
    grad_clip: Annotated[float, Field(gt=0)] | None = 1.0  # norm of all gradients; null = none
    val_every: Positive  # validation, and the curve's points
    log_every: Positive = 10  # training loss and gradient norm
    checkpoint_every: Positive = 200  # what a kill costs at most
    # How the machine computes a step; the batch and what is learned stay what they are.
    micro_rows: Positive | Literal["auto"] | None = None  # rows at a time; None = all
    recompute: bool = False  # blocks once more in the backward, to keep less of them
    compile: bool = False  # blocks by torch.compile
    cuda_graph: Annotated[bool, LATER] = False  # on one GPU a part's kernels at one start
    devices: Positive = 1  # processes that share a batch, a GPU each where there are any
    shard: bool = False  # weights and optimizer over the devices (FSDP2), not a copy on each
    shard_checkpoints: bool = False  # every device writes its part


class Config(Section):
    """One experiment, every default filled in. Seeds are given beside it, not in it."""

    name: str  # no part of an identity
    description: str = ""  # likewise
    scale: str  # a word; the name of the sweep's folder ends with it
    plugins: list[str] = []  # Python files of your own components, relative to this one
    tokenizer: Annotated[str | None, LATER] = None  # of every source of text that names none
    paths_from: Annotated[dict[str, str], LATER] = {}  # by place in `data`; filled in, not given
    start_from: Annotated[str | None, LATER] = None  # `runs/<id>` or a checkpoint: its weights
    start_weights: Annotated[str | None, LATER] = None  # sha256 they must have; else filled in
    model: ModelConfig  # see `model`
    data: Annotated[dict[str, Spec], Field(min_length=1)]  # label -> source; rows add up to a step
    optimizer: Spec  # its `lr` is the peak
    schedule: Spec  # of the learning rate
    training: TrainingConfig  # see `training`
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
