"""Memory and time on a device: estimates against a measured step, and what a plan says of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hymba_lab.config import load_config
from hymba_lab.cost.activations import activation_bytes
from hymba_lab.cost.cards import CARDS, USABLE, peak_flops
from hymba_lab.cost.memory import device_memory, rows_at_once
from hymba_lab.errors import ConfigError
from hymba_lab.sweep.devices import device_rate
from hymba_lab.sweep.estimate import plan

ROOT = Path(__file__).parents[1]

STEP = """
import json, sys
from pathlib import Path
import torch
from hymba_lab.config import load_config
from hymba_lab.data.source import build_sources
from hymba_lab.model import build_model
from hymba_lab.optim.optimizers import optimizers
from hymba_lab.training.parallel import change_blocks
from hymba_lab.training.parts import TrainParts
from hymba_lab.training.scoring import batch_loss

def field(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

torch.set_num_threads(1)
config = load_config(sys.argv[1], sys.argv[2:])
mixture = build_sources(config.data, config.training.seq_len)
steps = TrainParts(mixture, 0, range(2), micro_rows=config.training.micro_rows)
before = field("VmRSS")
model = build_model(config.model, mixture.vocab)
change_blocks(model, recompute=config.training.recompute, compiled=False)
optimizer = optimizers.build(config.optimizer, model)
for parts, counts in steps:
    optimizer.zero_grad()
    for part in parts:
        batch_loss(model, *part, counts)[0].backward()
    optimizer.step()
print(json.dumps({"peak": field("VmHWM") - before, "vocab": mixture.vocab}))
"""


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.parametrize("ways", [[], ["training.micro_rows=2"], ["training.recompute=true"]],
                         ids=["whole", "parts", "recomputed"])  # fmt: skip
def test_the_estimate_is_near_the_measured_peak(ways: list[str]) -> None:
    file = str(ROOT / "experiments" / "nano.yaml")
    shape = ["model.d_model=256", "model.n_layers=6", "model.mlp.d_ff=768", "model.heads.d_head=64",
             "training.seq_len=256", "data={recall: {name: mqar, rows: 8, vocab: 4096, "
             "n_pairs: [8, 16], n_val: 8}}", *ways]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", STEP, file, *shape], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    estimate = device_memory(load_config(file, shape), found["vocab"]).total
    assert estimate == pytest.approx(found["peak"], rel=0.35)


def test_layers_alike_are_counted_as_often_as_they_are() -> None:
    file = ROOT / "experiments" / "hymba_125m.yaml"
    bytes_of = {}
    for n_layers in (6, 8, 10):
        config = load_config(file, [f"model.n_layers={n_layers}", "model.kv_sharing={name: none}"])
        bytes_of[n_layers] = activation_bytes(config.model, 50, 64, "fp32")
    assert bytes_of[8] - bytes_of[6] == bytes_of[10] - bytes_of[8] > 0


@pytest.mark.parametrize("shape", ["125m", "350m", "1p5b"])
def test_a_recipe_is_the_paper_s_batch_on_corpora(shape: str) -> None:
    config = load_config(ROOT / "experiments" / "recipes" / f"hymba_{shape}.yaml")
    text = config.data["text"].options()
    assert (text["rows"] * config.training.seq_len, config.training.seq_len) == (2**21, 2048)
    assert text["anneal"][0].start == 0.8 and config.n_steps > 700_000
    memory = device_memory(config, config.model.vocab or 0)
    assert memory.total < USABLE * CARDS["A100-80GB"].memory


def test_shards_and_parts_take_less() -> None:
    file = ROOT / "experiments" / "nano.yaml"

    def total(*ways: str) -> int:
        return device_memory(load_config(file, [f"training.{way}" for way in ways]), 300).total

    assert total("micro_rows=1") < total("micro_rows=8") < total()
    assert total("recompute=true") < total()
    assert total("devices=4", "shard=true") < total("devices=4") < total()
    assert rows_at_once(load_config(file, ["training.devices=3"])) == 28  # ceil(64/3) + ceil(16/3)


def test_a_second_forward_pass_costs_a_quarter_of_the_rate() -> None:
    file, on = ROOT / "experiments" / "nano.yaml", CARDS["A100-80GB"]
    plain = device_rate(load_config(file), 1e9, on, 0.5)
    again = device_rate(load_config(file, ["training.recompute=true"]), 1e9, on, 0.5)
    assert plain == pytest.approx(0.5 * on.fp32 / 3e9) and again == pytest.approx(0.75 * plain)


def test_cards_are_known_by_the_name_that_torch_gives_them() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3", "bf16-mixed") == 989e12
    assert peak_flops("Some CPU", "fp32") is None
    from hymba_lab.cost.cards import card

    with pytest.raises(ConfigError, match=r"no card 'A100'.*H100-80GB"):
        card("A100")


@pytest.mark.campaign
@pytest.mark.slow
def test_a_plan_says_what_a_card_holds_and_how_long_it_takes(tmp_path: Path) -> None:
    sweep = ROOT / "sweeps" / "roadmap.yaml"
    found = plan(sweep, scale="125m", root=tmp_path)
    assert found.devices is not None and found.devices.row_count == 9
    assert any("GPU-hours in all" in note and "measured" in note for note in found.notes)
    assert not any("Will not fit" in note for note in found.notes)
    large = plan(sweep, scale="125m", root=tmp_path, overrides=["training.micro_rows=512"])
    assert any(f"into {USABLE * 141:.0f} GB" in note for note in large.notes)


def test_slower_cards_of_a_known_name_are_not_known() -> None:
    assert peak_flops("NVIDIA H200", "bf16-mixed") == 989e12
    for name in ("NVIDIA H200 NVL", "NVIDIA GeForce RTX 4090 Laptop GPU"):
        assert peak_flops(name, "bf16-mixed") is None


def test_float32_is_that_of_torch_without_tf32() -> None:
    """No setting of ours turns TF32 on; its rate made every MFU seven times too low."""
    assert torch.get_float32_matmul_precision() == "highest"
    assert peak_flops("NVIDIA H100 80GB HBM3", "fp32") == 67e12
