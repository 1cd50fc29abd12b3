"""What users get wrong when they fine-tune: one sentence, exit code 2, nothing lost."""

import json
from pathlib import Path

import pytest
from tuning import CHATS, lines, stage_of, tensors
from tuning_faults import CASES, Case, turn

from hymba_lab import cli
from hymba_lab.__main__ import main

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")


def written(place: Path, case: Case) -> None:
    stage = stage_of(case.kind, place).model_dump(mode="json")
    stage["data"]["paths"] = [Path(path).name for path in stage["data"]["paths"]]
    stage |= {"model": "model", "max_steps": 1} | case.values
    kept = {key: value for key, value in stage.items() if value is not None}
    (place / "stage.yaml").write_text(json.dumps(kept))


def contents(place: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in place.rglob("*")
        if path.is_file() and path.name not in ("finetune.json", "mlflow.db", ".out.lock")
    }


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_one_sentence_and_nothing_lost(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, case)
    case.broken(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    words = case.words or (case.kind, "stage.yaml", "--out", "out")
    store = f"sqlite:///{tmp_path.parent}/m.db"
    if words[0] != "merge":
        words = (*words, "--device", "cpu", "--tracking-uri", store)
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda _: main(["finetune", *words]))
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("error: ") and "Traceback" not in said
    assert case.said in said
    assert contents(tmp_path) == before


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 40 and len({case.id for case in CASES}) == len(CASES)


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    written(tmp_path, Case("", ""))
    file = tmp_path / "model/model.safetensors"
    weights = load_file(file)
    weights["model.final_layernorm.weight"] *= float("nan")
    save_file(weights, file, {"format": "pt"})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda _: main(["finetune", "sft", "stage.yaml", "--out", "out"]))
    assert ended.value.code == 2
    assert "the loss is nan at step 1; lower lr" in capsys.readouterr().err
    assert tensors(tmp_path / "model") and not (tmp_path / "out/config.json").exists()


def test_what_is_too_long_is_cut_or_left_out(tmp_path: Path) -> None:
    from hymba_lab.finetune.prepare import prepare
    from hymba_lab.finetune.start import Start

    long = {"messages": [turn("user", "u" * 90), turn("assistant", "a" * 9)]}
    some = {"messages": [turn("user", "u"), turn("assistant", "a" * 90)]}
    stage = stage_of("sft", tmp_path)
    lines(tmp_path / "chats.jsonl", [*CHATS, long, some])
    for how, n_cut, n_dropped in (("cut", 1, 1), ("drop", 0, 2)):
        asked = stage.model_copy(update={"data": stage.data.model_copy(update={"too_long": how})})
        data = prepare(asked, Start(tmp_path / "model"))
        assert (data.n_cut, data.n_dropped) == (n_cut, n_dropped)
        assert data.n_examples == len(CHATS) + n_cut
