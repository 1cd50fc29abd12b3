"""A model that is loaded is the model that was trained, with whatever no file holds."""

from pathlib import Path

import pytest
import torch
from conftest import TINY
from torch import Tensor, nn

from hymba_lab.checkpoints.filled import filled
from hymba_lab.checkpoints.load import load
from hymba_lab.model import LanguageModel
from hymba_lab.training.single import train


@pytest.mark.slow
@pytest.mark.parametrize("sink", ["learned", "off_by_one"])
def test_a_run_with_a_sink_is_loaded_and_answers(sink: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(TINY.replace("{name: softmax}", f"{{name: softmax, sink: {sink}}}"))
    run = train(file, 0, root=tmp_path)
    model, _ = load(run.folder, None, texts=False)
    tensors = [*model.parameters(), *model.buffers()]
    assert not any(tensor.is_meta for tensor in tensors)
    assert torch.isfinite(model(torch.arange(12)[None])).all()


class Scaled(nn.Module):
    """A part of somebody's model, with a buffer that it never saves."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor([3.0]), persistent=False)


def made() -> LanguageModel:
    model = nn.Module()
    model.part = Scaled()
    return model  # type: ignore[return-value]


def test_a_buffer_that_no_file_holds_is_as_it_was_made() -> None:
    weights = made().state_dict()
    model = filled(made, weights)
    assert torch.equal(model.get_buffer("part.scale"), torch.tensor([3.0]))
    assert torch.equal(model.get_parameter("part.inner.weight"), weights["part.inner.weight"])
    assert not model.part.state_dict().keys() & {"scale"}  # type: ignore[union-attr]
