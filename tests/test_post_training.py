"""The shipped stages: the paper's numbers, a chain over folders, and what they can be named by."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("trl")
pytest.importorskip("peft")

from hymba_lab.config.tuning import Dpo, Lora, Sft
from hymba_lab.errors import ConfigError
from hymba_lab.finetune.method import share_of
from hymba_lab.finetune.stage_file import SHIPPED, load_stage
from hymba_lab.finetune.start import Start

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / SHIPPED).glob("*.yaml"))


def kind(path: Path) -> str:
    return "dpo" if path.stem == "dpo" else "sft"


def shipped(path: Path, model: Path) -> Sft | Dpo:
    return load_stage(kind(path), Path(path.stem), [f"model={model}"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_stage_loads_by_its_name(path: Path, tmp_path: Path) -> None:
    stage = shipped(path, tmp_path)
    assert stage.name == path.stem and stage.description
    assert Path(stage.model) == tmp_path
    assert all(Path(given).is_absolute() for given in stage.data.paths)


def test_the_recipe_is_the_paper_s(tmp_path: Path) -> None:
    one, two, three = (
        shipped(ROOT / SHIPPED / f"{name}.yaml", tmp_path) for name in ("sft1", "sft2", "dpo")
    )
    assert [stage.lr for stage in (one, two, three)] == [5e-5, 5e-5, 3e-6]
    assert {(s.epochs, s.schedule, s.rows, s.max_steps) for s in (one, two, three)} == {
        (1.0, "cosine", 1024, None)
    }
    assert isinstance(one, Sft) and one.packing == "bfd"
    assert isinstance(two, Sft) and two.packing == "bfd"


def test_each_stage_goes_on_from_the_one_before() -> None:
    """A stage whose start is not there yet says so, with the file and line that names it."""
    for name, before in (("sft2", "sft1"), ("dpo", "sft2"), ("doras_roleplay", "dpo")):
        path = ROOT / SHIPPED / f"{name}.yaml"
        with pytest.raises(ConfigError, match=rf"{name}.yaml:\d+:1: model: .*finetuned/{before}"):
            load_stage(kind(path), path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_dora_trains_less_than_a_tenth_of_the_published_model(tmp_path: Path) -> None:
    config = ROOT / "tests/data/hymba_1p5b_config.json"
    shutil.copyfile(config, tmp_path / "config.json")
    from hf_folders import tiny_tokenizer

    tiny_tokenizer().save_pretrained(tmp_path)
    stage = shipped(ROOT / SHIPPED / "doras_roleplay.yaml", tmp_path)
    share = share_of(stage.method, Start(tmp_path).skeleton())
    assert isinstance(stage.method, Lora) and stage.method.at_most == 0.1
    assert share == (98_633_792, 1_522_797_824)
