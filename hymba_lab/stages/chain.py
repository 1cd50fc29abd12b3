"""The runs that an experiment with stages comes to, each with an identity of its own.

    pretrain -> sft -> dpo -> evaluate        four runs, each of what goes before and one stage more

The first is the run that the experiment without stages has; so sweeps that share a beginning share
its runs. Light: a plan imports no training.
"""

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hymba_lab.config import Config
from hymba_lab.config.stages import EvaluateStage
from hymba_lab.errors import ConfigError
from hymba_lab.runs.folder import RunFolder, run_identity

PRETRAIN = "pretrain"
_NEEDS = {"sft": ("trl", "peft"), "dpo": ("trl", "peft"), "evaluate": ("lm_eval",)}
_EXTRA = {"sft": "finetune", "dpo": "finetune", "evaluate": "evaluate"}


def chain(config: Config) -> list[Config]:
    """Return the experiment up to each of its stages: the pretraining alone first, whole last."""
    items = list(config.stages.items())
    return [
        config.model_copy(update={"stages": dict(items[:n])}) for n in range(len(items) + 1)
    ]  # fmt: skip


def names(config: Config) -> list[str]:
    """Return what each run of the chain adds: `pretrain`, then the labels."""
    return [PRETRAIN, *config.stages]


def identities(config: Config, seed: int, fingerprint: str) -> list[str]:
    """Return the identities of the chain's runs; the last is that of the whole."""
    return [run_identity(part, seed, fingerprint) for part in chain(config)]


def is_whole(record: Any) -> bool:
    """Whether a run was trained to its end, so that a stage may go on from it."""
    return record is not None and record["stopped_by"] is None and not record.get("ended_by")


def next_of(before: Iterable[str], root: Path) -> str | None:
    """Return the first of a chain's runs that is not trained yet; None when all of them are."""
    return next((one for one in before if not is_whole(RunFolder(root, one).result)), None)


def count(chains: Iterable[Sequence[str]], labels: Sequence[str], root: Path) -> list[str]:
    """Return `N pretrain (M finished)` and its like; `chains` are identities in order."""
    by_stage: list[set[str]] = [set() for _ in labels]
    for one in chains:
        for found, identity in zip(by_stage, one, strict=True):
            found.add(identity)
    said = []
    for label, found in zip(labels, by_stage, strict=True):
        done = sum(is_whole(RunFolder(root, identity).result) for identity in found)
        said.append(f"{len(found)} {label} ({done} finished)")
    return said


def metrics_of_stages(config: Config) -> list[str]:
    """Return the metrics that the stages add, but for those of an evaluation."""
    found = []
    for label, stage in config.stages.items():
        if isinstance(stage, EvaluateStage):
            continue
        found.append(f"{label}/train/loss")
        if stage.data.val_fraction:
            found.append(f"{label}/val/loss")
        if stage.name == "dpo":
            found += [f"{label}/rewards/accuracies", f"{label}/rewards/margins"]
    return found


def tasks_of(config: Config) -> list[str] | None:
    """Return the tasks that are evaluated; None without evaluation, or of a shipped suite."""
    from hymba_lab.evaluation.suites import suite_of

    for stage in config.stages.values():
        if isinstance(stage, EvaluateStage):
            suite = suite_of(str(stage.options()["suite"]))
            return [one.task for one in suite.asked] if suite.own else None
    return None


def check_stages(config: Config, mixture: Any) -> None:
    """Refuse, before anything is trained, what a stage would refuse after hours.

    `mixture` is the experiment's data: one source has to be text, whose tokenizer the stages use.
    """
    if not config.stages:
        return
    from hymba_lab.checkpoints.fast_tokenizer import fast_tokenizer
    from hymba_lab.finetune.rows import rows_of

    texts = (label for label, one in mixture.sources.items() if getattr(one, "tokenizer", None))
    if (text := next(texts, None)) is None:
        labels = ", ".join(f"{label} ({spec.name})" for label, spec in config.data.items())
        raise config.blame(
            ConfigError(f"need a source of text in data, which has {labels}.", "stages")
        )
    for label, stage in config.stages.items():
        absent = [name for name in _NEEDS[stage.name] if importlib.util.find_spec(name) is None]
        if absent:
            said = f"needs {' and '.join(absent)}: pip install 'hymba-lab[{_EXTRA[stage.name]}]'."
            raise config.blame(ConfigError(said, f"stages.{label}"))
    tuned = fast_tokenizer(mixture.sources[text].tokenizer, mixture.offsets[text], f"data.{text}")
    for label, stage in config.stages.items():
        if isinstance(stage, EvaluateStage):
            _check_evaluation(config, label, stage, tuned)
        else:  # a fault in line 7,000 is said now
            rows_of(stage.of(label, Path(), seed=0), tuned, "the stage before")


def _check_evaluation(config: Config, label: str, stage: EvaluateStage, tokenizer: Any) -> None:
    """Load the tasks with their data, which are never fetched, and look for a template."""
    from hymba_lab.evaluation.suites import suite_of
    from hymba_lab.evaluation.tasks import load_tasks

    if stage.apply_chat_template and not tokenizer.chat_template:
        said = "no stage before has a template, and the pretrained model has none; give one."
        raise config.blame(ConfigError(said, f"stages.{label}.apply_chat_template"))
    load_tasks(suite_of(str(stage.options()["suite"]), limit=stage.limit, n_shot=stage.n_shot))
