"""One experiment from the command line: the same identity, folder and resume as in a sweep."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from hymba_lab.config import Config, load_config
from hymba_lab.cost import measure_costs
from hymba_lab.data.source import Mixture, build_sources
from hymba_lab.errors import ConfigError, TrialFailed
from hymba_lab.ops.status import chosen
from hymba_lab.runs.folder import RunFolder, run_identity
from hymba_lab.runs.provenance import CODE_VERSION, commit
from hymba_lab.runs.tracking import IDENTITY, ROLE, Run, Store, default_uri, record_tags
from hymba_lab.training.fit import fit
from hymba_lab.training.world import world

EXPERIMENT = "train"


def train_one(options: argparse.Namespace) -> int:
    """Train `options.file` with `options.seed`, or read the finished run back; returns 0."""
    console = Console()
    if options.threads:
        torch.set_num_threads(options.threads)
    config = load_config(options.file, options.overrides)
    mixture = _checked_sources(config)
    folder = RunFolder(options.root, run_identity(config, options.seed, mixture.fingerprint))
    if not world().is_first:
        return _follow(config, mixture, folder, options.seed)
    with folder.locked():
        record: dict[str, Any] | None = folder.result
        if record is not None and record["stopped_by"] is None and not record.get("ended_by"):
            console.print(f"this run is finished; reading {folder.path}")
        else:
            record = _train(config, mixture, folder, options)
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
    config: Config, mixture: Mixture, folder: RunFolder, options: argparse.Namespace
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
    record = {
        "seed": options.seed,
        "metrics": result.metrics,
        "history": result.history,
        "stopped_by": None,
        "n_steps": result.n_steps,
        "seconds": result.seconds,
        "tokens_per_second": result.tokens_per_second,
        "mlflow": {"uri": run.store.uri, "experiment_id": "", "run_id": run.id},
        "code_version": CODE_VERSION,
        "commit": commit().sha,
        "dirty": commit().dirty,
        **chosen(),
        "config": config.resolved(),
        "digest": config.digest,
        "data_fingerprint": mixture.fingerprint,
        "scale": config.scale,
        "tokens": config.training.tokens,
    }
    folder.finish(record)
    run.describe({}, record_tags(record))
    run.end()
    return record


def _open_run(config: Config, mixture: Mixture, identity: str, options: argparse.Namespace) -> Run:
    store = Store(options.tracking_uri or default_uri(options.root), Path(options.root))
    tags = {
        ROLE: "trial",
        IDENTITY: identity,
        "hymba_lab.scale": config.scale,
        "mlflow.source.git.commit": commit().sha,
    }
    experiment = store.experiment(EXPERIMENT)
    run = store.open_run(experiment, f"{config.name}, seed {options.seed}", identity, tags)
    run.describe({"seed": options.seed, "digest": config.digest[:12]})
    run.artifact("config.json", json.dumps(config.resolved(), indent=1))
    return run


def _checked_sources(config: Config) -> Mixture:
    """Build the data and the model's shape, so that what does not fit is said at its line."""
    try:
        mixture = build_sources(config.data, config.training.seq_len)
        measure_costs(config.model, mixture.vocab, config.training.seq_len)
    except ConfigError as error:
        raise config.blame(error) from None
    return mixture
