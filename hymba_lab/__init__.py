"""Architecture ablations of models that run attention heads and SSM heads in parallel (Hymba).

    import hymba_lab as lab

    lab.plan("fusion", scale="nano").notes       # what it will train, and at what cost
    lab.sweep("fusion", scale="nano").verdicts   # train what is missing, then one line per row
    lab.train("nano", seed=0).metrics            # one model
    lab.evaluate("runs/<id>", "quick").table     # tasks of the lm-evaluation-harness

Every name is imported when it is asked for: much of the package needs no torch.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hymba_lab.checkpoints.hf_checkpoint import load_pretrained, save_pretrained
    from hymba_lab.checkpoints.load import load
    from hymba_lab.evaluation.evaluate import evaluate
    from hymba_lab.report.all import report
    from hymba_lab.stages.single import train
    from hymba_lab.sweep.estimate import plan
    from hymba_lab.sweep.run import run_sweep as sweep

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "evaluate",
    "load",
    "load_pretrained",
    "plan",
    "report",
    "save_pretrained",
    "sweep",
    "train",
]

# `python -m hymba_lab.train` finds commands/train.py
__path__.append(str(Path(__file__).with_name("commands")))

_ROOM = {  # name -> module, and its name there where it has another; packages call themselves
    "evaluate": "hymba_lab.evaluation.evaluate",
    "load": "hymba_lab.checkpoints.load",
    "load_pretrained": "hymba_lab.checkpoints.hf_checkpoint",
    "plan": "hymba_lab.sweep.estimate",
    "save_pretrained": "hymba_lab.checkpoints.hf_checkpoint",
    "train": "hymba_lab.stages.single",
}
_CALLABLE = ("report", "sweep")  # packages that can be called: see `cli.callable_package`


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is."""
    if name in _ROOM:
        return getattr(import_module(_ROOM[name]), name)
    if name in _CALLABLE:
        return import_module(f"hymba_lab.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
