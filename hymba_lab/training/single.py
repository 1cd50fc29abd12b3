"""One experiment from the command line: the same identity, folder and resume as in a sweep."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from hymba_lab.config import Config, load_config
from hymba_lab.cost import Costs, measure_costs
from hymba_lab.data.source import Mixture, build_sources
from hymba_lab.errors import ConfigError, TrialFailed
from hymba_lab.runs.folder import RunFolder, run_identity
from hymba_lab.runs.mirrored import MirroredRun
from hymba_lab.runs.provenance import commit
from hymba_lab.runs.record import record_of, run_facts
from hymba_lab.runs.tracking import (
    IDENTITY,
    ROLE,
    Store,
    default_uri,
    record_tags,
)
from hymba_lab.training.fit import fit
from hymba_lab.training.world import world

EXPERIMENT = "train"


def train_one(options: argparse.Namespace) -> int:
    """Train `options.file` with `options.seed`, or read the finished run back; returns 0."""
    console = Console()
    if options.threads:
        torch.set_num_threads(options.threads)
    config = load_config(options.file, options.overrides)
    mixture, costs = _checked_sources(config)
    folder = RunFolder(options.root, run_identity(config, options.seed, mixture.fingerprint))
    if not world().is_first:
        return _follow(config, mixture, folder, options.seed)
    with folder.locked():
        record: dict[str, Any] | None = folder.result
        if record is not None and record["stopped_by"] is None and not record.get("ended_by"):
            console.print(f"this run is finished; reading {folder.path}")
        else:
            record = _train(config, mixture, costs, folder, options)
    for name, value in record["metrics"].items():
        console.print(f"{name:40} {value:.4f}", highlight=False)
    console.print(f"weights: {folder.path / 'weights.safetensors'}", highlight=False)
    return 0


def _follow(config: Config, mixture: Mixture, folder: RunFolder, seed: int) -> int:
    """Train as a rank that `torchrun` started; rank 0 locks, logs and writes."""
    record = folder.result
    if record is None or record["stopped_by"] is not None:
        fit(config, seed=seed, folder=folder.path, mixture=mixture)
    return 0


def _train(
    config: Config,
    mixture: Mixture,
    costs: Costs,
    folder: RunFolder,
    options: argparse.Namespace,
) -> dict[str, Any]:
    run = _open_run(config, mixture, folder.identity, options)
    try:
        result = fit(
            config,
            seed=options.seed,
            folder=folder.path,
            log=run.log,
            progress=True,
            mixture=mixture,
        )
    except TrialFailed as error:
        folder.fail(error.reason, error.message)
        run.end("FAILED")
        raise
    except BaseException:
        run.end("KILLED")
        raise
    record = record_of(
        result,
        config=config.resolved(),
        facts=run_facts(config, mixture.fingerprint, costs),
        seed=options.seed,
        n_threads=torch.get_num_threads(),
        mlflow=run.place,
    )
    folder.finish(record)
    run.describe({}, record_tags(record))
    run.end("FINISHED")
    return record


def _open_run(
    config: Config, mixture: Mixture, identity: str, options: argparse.Namespace
) -> MirroredRun:
    store = Store(options.tracking_uri or default_uri(options.root), Path(options.root))
    tags = {
        ROLE: "trial",
        IDENTITY: identity,
        "hymba_lab.scale": config.scale,
        "mlflow.source.git.commit": commit().sha,
    }
    experiment = store.experiment(EXPERIMENT)
    opened = store.open_run(experiment, f"{config.name}, seed {options.seed}", identity, tags)
    run = MirroredRun(opened, experiment, tell=print)
    run.describe({"seed": options.seed, "digest": config.digest[:12]}, {})
    run.artifact("config.json", json.dumps(config.resolved(), indent=1))
    return run


def _checked_sources(config: Config) -> tuple[Mixture, Costs]:
    """Build the data and the model's shape, so that what does not fit is said at its line."""
    try:
        mixture = build_sources(config.data, config.training.seq_len)
        costs = measure_costs(config.model, mixture.vocab, config.training.seq_len)
    except ConfigError as error:
        raise config.blame(error) from None
    return mixture, costs
