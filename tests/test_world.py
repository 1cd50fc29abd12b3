"""The place of a process among its ranks, from an environment that others write."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from hymba_lab.errors import ConfigError, LaunchError
from hymba_lab.training import ranks
from hymba_lab.training.world import World, whole_on_first, world

WHOLE = {
    "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _torchruns_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WHOLE.items():
        monkeypatch.setenv(name, value)


def test_torchruns_environment_is_read() -> None:
    assert world() == World(1, 4, 2)


def test_without_a_rank_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK")
    assert world() == World(0, 1, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RANK", "x"), ("RANK", "4"), ("RANK", "-1"), ("RANK", ""), ("WORLD_SIZE", "abc"),
        ("WORLD_SIZE", "0"), ("WORLD_SIZE", "2.0"), ("LOCAL_WORLD_SIZE", "q"), ("LOCAL_RANK", "2"),
    ],
)  # fmt: skip
def test_what_is_no_place_is_one_sentence(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError, match=f"{name}={value} is no whole number.*torchrun"):
        world()


@pytest.mark.parametrize("name", ["LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_half_an_environment_is_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(LaunchError, match=f"{name} not; start the ranks with torchrun"):
        world()


def test_a_whole_checkpoint_lies_on_the_first_rank_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        weight = torch.arange(6.0).view(3, 2)
        given = {
            "a": [distribute_tensor(weight, init_device_mesh("cpu", (1,)), [Shard(0)])],
            "n": 1,
        }
        assert torch.equal(whole_on_first(given)["a"][0], weight)
        monkeypatch.setattr(dist, "get_rank", lambda: 1)
        elsewhere = whole_on_first(given)
    finally:
        dist.destroy_process_group()
    assert elsewhere["n"] == 1
    assert (elsewhere["a"][0].shape, elsewhere["a"][0].is_meta) == (weight.shape, True)


def test_more_devices_than_gpus_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    ranks._require_gpus(2)
    with pytest.raises(ConfigError, match=r"4 devices are asked for and 2 GPUs are here; set"):
        ranks._require_gpus(4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ranks._require_gpus(4)
