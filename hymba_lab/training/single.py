"""One experiment from the command line: the same identity, folder and resume as in a sweep."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from hymba_lab.cli import plain_console
from hymba_lab.config import Config, load_config
from hymba_lab.config.shipped import shipped
from hymba_lab.cost import Costs, measure_costs
from hymba_lab.data.source import Mixture, build_sources
from hymba_lab.errors import ConfigError, DataError, LeaseLost, StoreError, TrialFailed
from hymba_lab.runs.folder import RunFolder, run_identity
from hymba_lab.runs.mirrored import MirroredRun
from hymba_lab.runs.provenance import commit
from hymba_lab.runs.record import record_of, run_facts
from hymba_lab.runs.tracking import IDENTITY, ROLE, Store, default_uri, record_tags
from hymba_lab.training.fit import fit, require_a_step
from hymba_lab.training.shards import remove_checkpoint
from hymba_lab.training.trainable import require_trainable
from hymba_lab.training.world import world

EXPERIMENT = "train"


@dataclass(frozen=True)
class Trained:
    """A finished run: its folder, with `weights.safetensors`, and its record (result.json)."""

    folder: Path
    record: Mapping[str, Any]

    @property
    def metrics(self) -> Mapping[str, float]:
        """The last validation and the areas under the validation curves."""
        return cast(Mapping[str, float], self.record["metrics"])


def train(
    config: Config | str | Path,
    seed: int = 0,
    *,
    overrides: Sequence[str] = (),
    root: Path = Path(),
    tracking_uri: str | None = None,
    threads: int | None = None,
) -> Trained:
    """Train one model, or read the finished run back.

    `config` is a configuration, an experiment file or the name of a shipped one; `overrides`
    (texts `path=value`) are for files. The run stands below `root`, `tracking_uri` is MLflow's
    store (default: a database in `root`), `threads` are torch's.

    Raises a `UserError` for what the caller can mend, `TrialFailed` when training fails.
    """
    console = plain_console()
    if threads:
        torch.set_num_threads(threads)
    if not isinstance(config, Config):
        config = load_config(shipped(config, "experiments"), overrides)
    mixture, costs = checked_sources(config)
    folder = RunFolder(Path(root), run_identity(config, seed, mixture.fingerprint))
    if not world().is_first:
        return Trained(folder.path, _follow(config, mixture, folder, seed))
    with folder.locked():
        record: dict[str, Any] | None = folder.result
        if record is not None and record["stopped_by"] is None and not record.get("ended_by"):
            console.print(f"this run is finished; reading {folder.path}")
        else:
            run = open_run(config, folder.identity, seed, root, tracking_uri)
            try:
                record = _train(config, mixture, costs, folder, seed, run)
            except LeaseLost as error:
                raise StoreError(f"{error} What came after that here is not written.") from None
    return Trained(folder.path, record)


def _follow(config: Config, mixture: Mixture, folder: RunFolder, seed: int) -> Mapping[str, Any]:
    """Train as a rank that `torchrun` started; rank 0 locks, logs, writes and prints."""
    record = folder.result
    if record is not None and record["stopped_by"] is None and not record.get("ended_by"):
        return record
    return {"metrics": fit(config, seed=seed, folder=folder.path, mixture=mixture).metrics}


def _train(
    config: Config,
    mixture: Mixture,
    costs: Costs,
    folder: RunFolder,
    seed: int,
    run: MirroredRun,
) -> dict[str, Any]:
    try:
        result = fit(
            config,
            seed=seed,
            folder=folder.path,
            log=run.log,
            progress=True,
            keep_checkpoint=True,  # until the result stands
            mixture=mixture,
            guard=folder.lease.require if folder.lease else None,
        )
    except LeaseLost:  # the other process has the MLflow run, too
        raise
    except (ConfigError, DataError) as error:
        run.end("FAILED")
        raise config.blame(error) from None
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
        seed=seed,
        n_threads=torch.get_num_threads(),
        mlflow=run.place,
    )
    folder.finish(record)
    remove_checkpoint(folder.checkpoint)
    run.describe({}, record_tags(record))
    run.end("FINISHED")
    return record


def open_run(config: Config, identity: str, seed: int, root: Path, uri: str | None) -> MirroredRun:
    """Open the MLflow run of an experiment that is trained on its own."""
    store = Store(uri or default_uri(root), Path(root))
    tags = {
        ROLE: "trial",
        IDENTITY: identity,
        "hymba_lab.scale": config.scale,
        "mlflow.source.git.commit": commit().sha,
    }
    experiment = store.experiment(EXPERIMENT)
    opened = store.open_run(experiment, f"{config.name}, seed {seed}", identity, tags)
    run = MirroredRun(opened, experiment, tell=print)
    run.describe({"seed": seed, "digest": config.digest[:12]}, {})
    run.artifact("config.json", json.dumps(config.resolved(), indent=1))
    return run


def checked_sources(config: Config) -> tuple[Mixture, Costs]:
    """Return the data and the model's costs; what does not fit is said at its line."""
    try:
        mixture = build_sources(config.data, config.training.seq_len)
        costs = measure_costs(config.model, mixture.vocab, config.training.seq_len)
        require_a_step(config)
        require_trainable(config, mixture.vocab)
    except (ConfigError, DataError) as error:
        raise config.blame(error) from None
    return mixture, costs
