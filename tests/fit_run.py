"""Train an experiment in a process of its own: `python tests/fit_run.py FILE FOLDER [A.B=V ...]`.

Prints a JSON object: the metrics, and what the run said about itself. STOP_AT=N in the environment
ends it at the validation after step N, its checkpoint kept. {rank} in FOLDER is the rank's number.
FOLDER/logged holds the last step whose record came out.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch import Trainer
from torch.distributed.tensor import DTensor

from hymba_lab.config import load_config
from hymba_lab.training import fit as fit_module
from hymba_lab.training.fit import fit
from hymba_lab.training.trainer import make_trainer


def parallelism(trainer: Trainer) -> dict[str, Any]:
    """The strategy's name, and how many of the tensors that the optimizer changes are shards."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    changed = [parameter for group in groups for parameter in group["params"]]
    shards = [parameter for parameter in changed if isinstance(parameter, DTensor)]
    return {
        "strategy": type(trainer.strategy).__name__,
        "n_parameters": len(changed),
        "n_shards": len(shards),
    }


def main() -> None:
    """Train with seed 0, keeping the checkpoint."""
    torch.set_num_threads(1)
    file, name, *overrides = sys.argv[1:]
    folder = Path(name.format(rank=os.environ.get("RANK")))
    norms: list[float] = []
    trainers: list[Trainer] = []
    last = int(os.environ.get("STOP_AT", 10**9))

    def log(metrics: dict[str, float], step: int) -> None:
        norms.extend(norm for name, norm in metrics.items() if name == "train/grad_norm")
        (folder / "logged").write_text(str(step))

    def noted(*facts: Any, **options: Any) -> Trainer:
        trainers.append(make_trainer(*facts, **options))
        return trainers[-1]

    with patch.object(fit_module, "make_trainer", noted):
        result = fit(
            load_config(Path(file), overrides),
            seed=0,
            folder=folder,
            log=log,
            stop=lambda step, metrics: step >= last,
            keep_checkpoint=True,
        )
    said = {"metrics": result.metrics, "resumed_from": result.resumed_from, "norms": norms}
    print(json.dumps({**said, **parallelism(trainers[0])}), flush=True)


if __name__ == "__main__":
    main()
