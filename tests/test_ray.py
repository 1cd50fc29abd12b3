"""A task that no node of a Ray cluster can hold: Ray waits without a word, so we say it."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hymba_lab.sweep.launchers import ray as ray_module
from hymba_lab.sweep.launchers.base import Site
from hymba_lab.sweep.launchers.needs import Needs
from hymba_lab.sweep.launchers.ray import Ray, held_by_none

SMALL = {"Alive": True, "Resources": {"CPU": 4.0, "memory": 8e9}}
LARGE = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0, "memory": 64e9}}


@pytest.mark.parametrize(
    ("needs", "held"),
    [
        (Needs(), True),
        (Needs(cpus=8, gpus=1, memory_gb=32), True),
        (Needs(gpus=1, trials_per_gpu=2), True),
        (Needs(devices=2, gpus=2), False),
        (Needs(cpus=16), False),
        (Needs(memory_gb=100), False),
    ],
)
def test_a_task_is_held_by_one_node_or_by_none(needs: Needs, held: bool) -> None:
    said = held_by_none([SMALL, LARGE], [needs])
    assert (said == "") is held
    assert held or "ask for less in --resources, or add such a node" in said
    assert held_by_none([{**LARGE, "Alive": False}, SMALL], [Needs(gpus=1)])


def test_what_no_node_holds_is_told_until_one_joins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`trouble` was always empty, and the sweep stood still."""
    nodes: list[dict[str, Any]] = [SMALL]
    reference = SimpleNamespace(
        future=lambda: SimpleNamespace(add_done_callback=lambda settle: None)
    )
    module = SimpleNamespace(
        is_initialized=lambda: True, nodes=lambda: nodes, cancel=lambda *_, **__: None,
        remote=lambda **_: lambda _: SimpleNamespace(remote=lambda *_: reference),
        shutdown=lambda: None,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", module)
    monkeypatch.setattr(ray_module, "_LOOK_S", -1.0)
    launcher = Ray(Site("fusion"))
    task: Any = SimpleNamespace(needs=Needs(gpus=1))
    assert launcher.waits_for() == ""
    launcher.submit(str, task)
    assert "no node of the Ray cluster has 1 CPUs, 1 GPUs" in launcher.waits_for()
    nodes.append(LARGE)
    assert launcher.waits_for() == ""
    launcher.stop()
