"""A model that begins with the weights of another run or checkpoint."""

from pathlib import Path

from hymba_lab.checkpoints.load import load
from hymba_lab.errors import CheckpointError
from hymba_lab.model import LanguageModel

_SHOWN = 4


def take_over(model: LanguageModel, path: Path) -> None:
    """Copy the weights of runs/<id> or of a checkpoint's folder into `model`, all of them.

    What has no weights may differ: positions (RoPE), windows, the length of a sequence. Raises
    `CheckpointError` for tensors that are missing, left over or of another shape.
    """
    source, _ = load(path, "float32", texts=False)
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in source.state_dict().items()}
    faults = [
        f"{name}: {_said(theirs.get(name))} there, {_said(ours.get(name))} here"
        for name in dict.fromkeys((*ours, *theirs))
        if ours.get(name) != theirs.get(name)
    ]
    if faults:
        more = f"\n  and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise CheckpointError(
            f"{path}: start_from needs a model of the same tensors:\n  "
            + "\n  ".join(faults[:_SHOWN]) + more
        )  # fmt: skip
    model.load_state_dict(source.state_dict())


def _said(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else " x ".join(map(str, shape)) or "a number"
