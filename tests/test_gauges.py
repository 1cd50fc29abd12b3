"""Speed, share of the peak and memory of a run, by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hymba_lab.config import load_config
from hymba_lab.cost import measure_costs
from hymba_lab.training.gauges import Gauges
from hymba_lab.training.milestones import RECENT, Milestones


def test_the_figures_follow_from_the_step(tiny: Path) -> None:
    config = load_config(tiny, ["training.precision=bf16-mixed"])
    module: Any = SimpleNamespace(
        config=config, mixture=SimpleNamespace(vocab=16), device=torch.device("cpu"),
        tokens_per_step=6400, world=SimpleNamespace(n_ranks=2),
    )  # fmt: skip
    gauges = Gauges(SimpleNamespace(seconds_per_step=0.5))  # type: ignore[arg-type]
    found = gauges.read(module, "NVIDIA A100-SXM4-80GB")
    flops = 3 * measure_costs(config.model, 16, 16).flops_per_token
    assert found["perf/tokens_per_second_per_device"] == 6400
    assert found["perf/mfu"] == pytest.approx(6400 * flops / 312e12)
    assert set(gauges.read(module, "a card of tomorrow")) == {"perf/tokens_per_second_per_device"}


def test_the_speed_is_that_of_the_last_steps() -> None:
    """Of a run of a million steps, too: what is kept does not grow."""
    milestones = Milestones(Path("unused"), None)
    milestones._step_seconds.extend([9.0] * 5000 + [1.0] * 501)
    assert len(milestones._step_seconds) == RECENT
    assert milestones.seconds_per_step == 1.0
