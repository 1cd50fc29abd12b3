"""Every snippet of the page for users of the release runs, on a tiny folder in its format."""

import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_folders import tiny_folder
from transformers import BatchEncoding

from hymba_lab.__main__ import every_parser, main

PAGE = (Path(__file__).parents[1] / "docs/coming_from_the_release.md").read_text()
SNIPPETS = re.findall(r"```(python|sh)\n(.*?)```", PAGE, re.DOTALL)
PYTHON = [text for kind, text in SNIPPETS if kind == "python"]
SHELL = [text for kind, text in SNIPPETS if kind == "sh"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python(number: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, but for the folder; a CPU stands in for the GPU that they name."""
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda self: self)
    monkeypatch.setattr(BatchEncoding, "to", lambda self, device: self)
    monkeypatch.setattr("builtins.input", lambda *_: "Once upon a time")
    text = PYTHON[number].replace("FOLDER", str(folder)).replace('"OUT"', repr(str(tmp_path)))
    names: dict[str, Any] = {}
    exec(compile(text, "snippet", "exec"), names)
    assert "model" in names
    if "response" in names:
        assert isinstance(names["response"], str)


def test_the_ten_lines_are_the_release_s_own() -> None:
    code = [line for line in PYTHON[0].splitlines() if line and not line.startswith("#")]
    assert code[0] == "import hymba_lab.hf"
    assert len(code) == 12, "one more than the release's eleven"


@pytest.mark.parametrize("number", range(len(SHELL)))
def test_shell_lines_parse(number: int) -> None:
    for line in SHELL[number].replace("\\\n", " ").splitlines():
        parses(shlex.split(line))


def parses(words: list[str]) -> None:
    if words[0] == "pip":
        extras = re.search(r"\[(.*)\]", words[2])
        assert extras is not None
        text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
        assert all(re.search(rf"^{name} = \[", text, re.MULTILINE) for name in extras[1].split(","))
        return
    assert words[0] == "hymba-lab"
    if words[1] != "lm_eval":  # its arguments are the harness's: they run below
        every_parser().parse_args(words[1:])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_fine_tuning_runs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On four records of alpaca's form; the tuned folder loads in the ten lines."""
    pytest.importorskip("trl")
    monkeypatch.chdir(tmp_path)
    record = {"instruction": "Say it.", "input": "this", "output": "this it is"}
    Path("alpaca_data.json").write_text(json.dumps([record] * 4))
    commands = [
        line
        for text in SHELL
        for line in text.replace("\\\n", " ").splitlines()
        if line.startswith("hymba-lab finetune")
    ]
    assert len(commands) == 2
    for line in commands:
        words = shlex.split(line.replace("FOLDER", str(folder)))[1:]
        # the tiny model has positions for half as many tokens
        assert main([*words, "--set", "seq_len=128", "--device", "cpu", "--threads", "1"]) == 0
    for out in ("finetuned/alpaca", "finetuned/alpaca_dora"):
        test_python(0, tmp_path / out, tmp_path / "out", monkeypatch)


def words_of(start: str, folder: Path) -> list[str]:
    [text] = [text for text in SHELL if text.startswith(f"hymba-lab {start}")][:1]
    return shlex.split(text.replace("\\\n", " ").replace("FOLDER", str(folder)))[1:]


def test_chat_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n"))
    assert main(words_of("chat", folder)) == 0
    assert capsys.readouterr().out.strip()


def local_tasks(place: Path) -> None:
    """A task file under each name that the page evaluates, over nine questions of its own."""
    (place / "q.jsonl").write_text(
        "\n".join(json.dumps({"q": f"{n} and", "a": [str(n), "no"]}) for n in range(9))
    )
    for name in ("arc_easy", "arc_challenge", "piqa", "winogrande", "hellaswag", "mmlu",
                 "squad_completion"):  # fmt: skip
        (place / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: json\n"
            f"dataset_kwargs: {{data_files: {{test: {place}/q.jsonl}}}}\ntest_split: test\n"
            "fewshot_split: test\n"
            "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: '{{a}}'\n"
            "doc_to_target: 0\n"
            "metric_list:\n  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
        )


@pytest.mark.campaign
@pytest.mark.slow
def test_the_three_evaluation_commands_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With local tasks under the same names in place of data that would be fetched."""
    pytest.importorskip("lm_eval")
    local_tasks(tmp_path)
    monkeypatch.chdir(tmp_path)
    commands = [text for text in SHELL if text.startswith("hymba-lab lm_eval")]
    assert len(commands) == 3
    for text in commands:
        words = shlex.split(text.replace("\\\n", " ").replace("FOLDER", str(folder)))[1:]
        assert main([*words, "--include_path", str(tmp_path), "--device", "cpu"]) == 0
    assert len(list(tmp_path.rglob("results_*.json"))) == 3
    assert len(list(tmp_path.rglob("samples_*.jsonl"))) == 7


@pytest.mark.campaign
@pytest.mark.slow
def test_the_throughput_command_runs(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = words_of("bench", tiny)
    words[1] = str(tiny)
    assert main([*words[:2], "--seq-len", "16", "--batch", "2", "--new-tokens", "2"]) == 0
    assert "tiny" in capsys.readouterr().out
