"""One experiment from the command line, stages included: the runs that a sweep would make."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hymba_lab.cli import plain_console
from hymba_lab.config import Config, load_config
from hymba_lab.config.shipped import shipped
from hymba_lab.errors import ConfigError, LeaseLost, StoreError, TrialFailed
from hymba_lab.runs.folder import RunFolder, run_identity
from hymba_lab.runs.mirrored import MirroredRun
from hymba_lab.runs.record import record_of, run_facts
from hymba_lab.runs.tracking import record_tags
from hymba_lab.stages.chain import chain, check_stages, is_whole
from hymba_lab.stages.run import Staged, run_chain
from hymba_lab.training import single
from hymba_lab.training.single import Trained, checked_sources, open_run
from hymba_lab.training.world import world


def train(
    config: Config | str | Path,
    seed: int = 0,
    *,
    overrides: Sequence[str] = (),
    root: Path = Path(),
    tracking_uri: str | None = None,
    threads: int | None = None,
) -> Trained:
    """Train one model, then tune and evaluate it where the experiment has stages.

    Arguments are those of `training.single.train`. The pretraining is the run of the experiment
    without stages; what is finished is read back. Raises what that and the stages raise.
    """
    if not isinstance(config, Config):
        config = load_config(shipped(config, "experiments"), overrides)
    options: dict[str, Any] = {"root": root, "tracking_uri": tracking_uri, "threads": threads}
    if not config.stages:
        return single.train(config, seed, **options)
    if world().n_ranks > 1:
        said = "one process trains the stages; start it without torchrun (training.devices: N "
        said += "trains the model itself on N devices of this machine)."
        raise config.blame(ConfigError(said, "stages"))
    mixture, costs = checked_sources(config)
    check_stages(config, mixture)
    folder = RunFolder(Path(root), run_identity(config, seed, mixture.fingerprint))
    with folder.locked():
        record = folder.result
        if is_whole(record):
            plain_console().print(f"this run is finished; reading {folder.path}")
        else:
            single.train(chain(config)[0], seed, **options)
            run = open_run(config, folder.identity, seed, root, tracking_uri)
            record = _finished(config, costs, mixture, folder, seed, Path(root), run)
    assert record is not None
    return Trained(folder.path, record)


def _finished(
    config: Config,
    costs: Any,
    mixture: Any,
    folder: RunFolder,
    seed: int,
    root: Path,
    run: MirroredRun,
) -> dict[str, Any]:
    def pretrain(part: Config, _: RunFolder) -> dict[str, Any]:
        raise AssertionError("the pretraining is a run of its own and was trained")

    def recorded(part: Config, staged: Staged) -> dict[str, Any]:
        return record_of(
            staged, config=part.resolved(), facts=run_facts(part, mixture.fingerprint, costs),
            seed=seed, n_threads=torch.get_num_threads(), mlflow=run.place,
        ) | staged.own  # fmt: skip

    try:
        record = run_chain(
            config, folder, seed=seed, root=root, fingerprint=mixture.fingerprint,
            pretrain=pretrain, recorded=recorded,
            log=lambda metrics, step: run.log(dict(metrics), step),
            told=lambda line: print(line, flush=True),
        )  # fmt: skip
    except LeaseLost as error:  # the other process has the MLflow run, too
        raise StoreError(f"{error} What came after that here is not written.") from None
    except TrialFailed as error:
        folder.fail(error.reason, error.message)
        run.end("FAILED")
        raise
    except BaseException:
        run.end("KILLED")
        raise
    folder.finish(record)
    run.describe({}, record_tags(record))
    run.end("FINISHED")
    return record
