"""`cluster.yaml`: where trials run and what each of them asks for; no part of a run's identity.

    launcher: {name: slurm}
    defaults: {cpus: 2, memory_gb: 8, minutes: 120, setup: [source /shared/lab/.venv/bin/activate]}
    scales:
      125m: {gpus: 1, minutes: 1440, partition: gpu}
    rows:
      Transformer: {memory_gb: 32}

What a row says goes before what its scale says, and that before the defaults; null takes back what
stands below, e.g. `coordinator: {constraint: null}`.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, create_model

from hymba_lab.config.messages import checked
from hymba_lab.config.plugins import load_entry_points, load_plugin
from hymba_lab.config.yaml_file import Document, read_yaml
from hymba_lab.errors import ConfigError, suggest
from hymba_lab.registry import Section, Spec
from hymba_lab.sweep.launchers.base import launchers
from hymba_lab.sweep.launchers.needs import Needs
from hymba_lab.sweep.question.file import Sweep

Whole = Annotated[int, Field(ge=1, le=100_000)]
Word = Annotated[str, Field(pattern=r"^[\w.,:+&|*()\[\]=@/-]+$")]  # it stands in a line of sbatch
Line = Annotated[str, Field(pattern=r"^[^\n\r]*$")]


class Asked(Section):
    """What a trial asks for; what is not said is looked for one level below."""

    gpus: Annotated[int, Field(ge=0, le=1024)] | None = None
    cpus: Whole | None = None
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    minutes: Whole | None = None
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    gres: Word | None = None
    setup: list[Line] | None = None
    trials_per_gpu: Annotated[int, Field(ge=1, le=64)] | None = None


class ResourceFile(Section):
    """The file as written; `launcher` is narrowed to the registered ones."""

    plugins: list[str] = []
    launcher: Spec | None = None
    defaults: Asked = Asked()
    scales: dict[str, Asked] = {}
    rows: dict[str, Asked] = {}
    coordinator: Asked = Asked()
    interruptions: Annotated[int, Field(ge=0)] = 20


@dataclass(frozen=True)
class Resources:
    """Where trials run, and what each asks for."""

    spec: Spec
    file: ResourceFile = field(default_factory=ResourceFile)
    document: Document | None = None

    @property
    def interruptions(self) -> int:
        """How often in a row a trial may end without a step forward and without its own fault."""
        return self.file.interruptions

    @property
    def coordinator(self) -> Needs:
        """What the process that decides asks for, where it is a job itself (`--detach`): no GPU."""
        none = {"gpus": 0, "gres": None, "trials_per_gpu": None}
        return _needs(self.file.defaults.model_copy(update=none), self.file.coordinator)

    def asked(self, scale: str, row: str = "") -> Needs:
        """Return what the file says of a row's trials, whatever they train on."""
        return _needs(*(level for _, level in reversed(self._levels(scale, row))))

    def needs(self, scale: str, row: str, devices: int = 1) -> Needs:
        """Return what the trials of a row ask for, each on so many `devices`.

        Raises `ConfigError` where they are not given as many GPUs as they train on. Without any
        they train on cores; several devices under a queue do so only where the file says it.
        """
        found, place = self.asked(scale, row), self._place(scale, row)
        if devices > 1 and found.trials_per_gpu > 1:
            raise ConfigError(
                f"{place or 'resources'}: trials_per_gpu: {found.trials_per_gpu}, but "
                f"training.devices is {devices}: such a trial has GPUs of its own; leave "
                "trials_per_gpu away."
            )
        if found.gpus not in (0, devices):
            other = "fewer" if found.gpus < devices else "more"
            raise ConfigError(
                f"{place}: gpus: {found.gpus}, but training.devices is {devices}: a trial uses as "
                f"many as it has devices; ask for gpus: {devices}, or train on {other}."
            )
        if devices > 1 and not place and not found.gres and self.spec.name != "local":
            raise ConfigError(
                f"{row or scale}: training.devices is {devices}, and no GPU is asked for; say "
                f"gpus: {devices} in the file of --resources, or gpus: 0 to train on cores."
            )
        return replace(found, devices=devices)

    def _levels(self, scale: str, row: str) -> list[tuple[list[str | int], Asked]]:
        """Return what is said of a row and where, what goes before other words first."""
        nothing = Asked()
        return [
            (["rows", row], self.file.rows.get(row, nothing)),
            (["scales", scale], self.file.scales.get(scale, nothing)),
            (["defaults"], self.file.defaults),
        ]

    def _place(self, scale: str, row: str) -> str:
        """Return the line that says how many GPUs a row's trials get, "" where none does."""
        for path, level in self._levels(scale, row):
            if "gpus" in level.model_fields_set:
                place = self.document.where([*path, "gpus"]) if self.document else "resources"
                return "" if level.gpus is None else place
        return ""

    def check(self, labels: Collection[str], sweep: Sweep) -> None:
        """Refuse a row that the sweep has not, and its scale under another name than the base's."""
        scale, called = sweep.base.scale, sweep.file.scale
        if called in self.file.scales and scale not in self.file.scales:
            where = self.document.where(["scales", called]) if self.document else "scales"
            raise ConfigError(
                f"{where}: scales.{called}: the base experiment of this scale says scale: {scale}; "
                f"write {scale} here, or scale: {called} there."
            )
        for row in self.file.rows:
            if row not in labels:
                where = self.document.where(["rows", row]) if self.document else "rows"
                raise ConfigError(
                    f"{where}: rows.{row}: the sweep has no such row" + suggest(row, list(labels))
                )


def load_resources(path: Path | None, name: str | None) -> Resources:
    """Return what a file and `--launcher NAME` say; the option goes before the file's launcher."""
    import hymba_lab.sweep.launchers.local
    import hymba_lab.sweep.launchers.ray
    import hymba_lab.sweep.launchers.slurm  # noqa: F401

    load_entry_points()
    if path is None:
        return Resources(_spec(name or "local"))
    document = read_yaml(path)
    for place, plugin in enumerate(_listed(document)):
        file = Path(os.path.realpath(path.parent / plugin))
        if not file.is_file():
            said = f"there is no file {plugin}; paths are relative to the file that lists them."
            raise document.wrong(["plugins", place], said)
        load_plugin(file, [launchers])
    schema = create_model(
        "ResourceFile", __base__=ResourceFile, launcher=(launchers.schema(), None)
    )
    file_ = checked(document, schema)
    spec = file_.launcher
    if spec is None or name not in (None, spec.name):
        spec = _spec(name or "local")
    return Resources(spec, file_, document)


def _spec(name: str) -> Spec:
    if name not in launchers:
        raise ConfigError(
            f"--launcher {name}: there is no such launcher" + suggest(name, list(launchers))
        )
    return launchers.spec(name)


def _listed(document: Document) -> list[str]:
    listed: Any = document.data.get("plugins") or []
    is_list = isinstance(listed, list) and all(isinstance(name, str) for name in listed)
    return listed if is_list else []  # the schema says what is wrong with it


def _needs(*levels: Asked) -> Needs:
    said: dict[str, Any] = {}
    for level in levels:
        said |= level.model_dump(exclude_unset=True)
    said = {key: value for key, value in said.items() if value is not None}
    return Needs(**{**said, "setup": tuple(said.get("setup", ()))})
