"""Train an experiment in a process of its own: `python tests/fit_run.py FILE FOLDER [A.B=V ...]`.

Prints a JSON object: the metrics, and what the run said about itself. STOP_AT=N in the environment
ends it at the validation after step N, its checkpoint kept. {rank} in FOLDER is the rank's number.
"""

import json
import os
import sys
from pathlib import Path

import torch

from hymba_lab.config import load_config
from hymba_lab.training.fit import fit


def main() -> None:
    """Train with seed 0, keeping the checkpoint."""
    torch.set_num_threads(1)
    file, folder, *overrides = sys.argv[1:]
    norms: list[float] = []
    last = int(os.environ.get("STOP_AT", 10**9))
    result = fit(
        load_config(Path(file), overrides),
        seed=0,
        folder=Path(folder.format(rank=os.environ.get("RANK"))),
        log=lambda metrics, step: norms.extend(
            norm for name, norm in metrics.items() if name == "train/grad_norm"
        ),
        stop=lambda step, metrics: step >= last,
        keep_checkpoint=True,
    )
    said = {"metrics": result.metrics, "resumed_from": result.resumed_from, "norms": norms}
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
