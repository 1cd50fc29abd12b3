"""The commands `inspect` and `bench`: what they print, draw and refuse."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from matplotlib.image import imread

from hymba_lab.commands import bench, inspect
from hymba_lab.config import load_config
from hymba_lab.cost import measure_costs, throughput
from hymba_lab.cost.cache import held_bytes
from hymba_lab.cost.peers import read_peers
from hymba_lab.errors import UserError
from hymba_lab.figures.layer_plan import N_META, N_TEXT, WINDOW, visible

HYMBA = ROOT / "experiments" / "hymba_1p5b.yaml"
VOCAB = 16


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    assert inspect.main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_json_says_what_the_published_model_costs(capsys: pytest.CaptureFixture[str]) -> None:
    data = json_of(capsys, HYMBA)
    assert data["params_total"] == sum(data["params"].values()) == 1_522_797_824
    assert (data["cache_paper"], data["cache_released"]) == (78_602_240, 81_879_040)
    assert data["training_state"] == 18 * 1_522_797_824  # bf16-mixed
    assert data["training_flops_total"] == 3 * data["forward_flops_total"]
    assert [row["layer"] for row in data["layers"] if row["window"] is None] == [0, 15, 31]
    assert [row["kv_from"] for row in data["layers"]][16:19] == [16, 16, 16]


def test_context_type_and_overrides_change_the_cache_held(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(tiny)
    for context, name, dtype in ((7, "fp32", torch.float32), (100, "bf16", torch.bfloat16)):
        data = json_of(capsys, tiny, "--context", str(context), "--dtype", name)
        assert data["cache_held"] == held_bytes(config.model, VOCAB, context, dtype)
    wider = json_of(capsys, tiny, "--set", "model.d_model=32", "--set", "model.heads.d_head=4")
    assert wider["params_total"] > data["params_total"]


def test_the_data_gives_the_vocabulary_that_the_model_leaves_open(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json_of(capsys, tiny)
    config = load_config(tiny)
    assert data["vocab"] == VOCAB
    assert data["params_total"] == measure_costs(config.model, VOCAB, 16).params


@pytest.mark.slow
def test_tables_show_plan_parts_and_caches(capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.main([str(HYMBA)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"\n\s+18\s+parallel .* layer 16 ", text)
    assert re.search(r"total\s+1,522,797,824", text)
    assert re.search(r"paper's count, 8000 tokens, fp16 \(MB\)\s+78\.602", text)
    assert re.search(r"released code's, 8000 tokens, fp16 \(MB\)\s+81\.879", text)


@pytest.mark.slow
def test_compare_puts_files_and_peers_side_by_side(
    tiny: Path, write: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    other = write("other.yaml", f"extends: {tiny}\nname: other\nmodel: {{n_layers: 3}}\n")
    assert inspect.main(["--compare", str(tiny), str(other)]) == 0
    text = capsys.readouterr().out
    heading, values = re.findall(r"\n +(tiny .*other)|parameters +([\d,]+ +[\d,]+)", text)[:2]
    assert heading[0].split() == ["tiny", "other"]
    first, second = (int(value.replace(",", "")) for value in values[1].split())
    assert first < second
    data = json_of(capsys, tiny, "--compare", other)
    assert [entry["name"] for entry in data] == ["tiny", "other"]


@pytest.mark.slow
def test_the_picture_is_drawn_for_every_kind_of_layer(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "maps.png"
    overrides = [
        "model.n_layers=9",
        "model.order={name: interleaved, pattern: ppppasppp}",
        "model.meta_tokens={name: learned, n_meta: 4}",
        "model.placement={name: first_middle_last, window: 8}",
        "model.kv_sharing={name: adjacent}",
    ]
    assert (
        inspect.main([str(tiny), "--picture", str(path), *(f"--set={o}" for o in overrides)]) == 0
    )
    pixels = imread(path)[..., :3]
    assert pixels.shape[1] > 800
    for color in ("#E69F00", "#0072B2", "#D55E00", "#009E73"):  # meta, text, full, shared
        rgb = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        assert (np.abs(pixels - rgb).max(axis=-1) < 0.01).sum() > 100, color


def test_the_sketch_is_what_a_query_sees() -> None:
    window = visible(full=False, has_meta=True)
    assert (window[-1] > 0).sum() == N_META + WINDOW
    assert (window[:, :N_META] == np.tril(np.ones_like(window))[:, :N_META]).all()
    assert (visible(full=True, has_meta=False) > 0).sum() == N_TEXT * (N_TEXT + 1) // 2


WRONG = {
    "no file": ([], "name an experiment"),
    "no such file": (["nowhere.yaml"], "no such file"),
    "context": (["{tiny}", "--context", "0"], "at least 1"),
    "picture of two": (["{tiny}", "--compare", "{tiny}", "--picture", "a.png"], "one experiment"),
    "picture's kind": (["{tiny}", "--picture", "a.txt"], "ends in .png"),
    "picture's folder": (["{tiny}", "--picture", "{folder}/none/a.png"], "cannot be written"),
    "override": (["{tiny}", "--set", "model.d_modle=3"], "d_model"),
    "shape": (["{tiny}", "--set", "model.heads.n_heads=3"], "d_inner"),
    "peers": (["--peers", "{folder}/none.csv"], "cannot be read"),
    "peers' columns": (["--peers", "{tiny}"], "no column"),
}


@pytest.mark.parametrize(("arguments", "said"), WRONG.values(), ids=WRONG.keys())
def test_bad_input_is_one_message_and_exit_2(
    arguments: list[str], said: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hymba_lab import cli

    given = [text.format(tiny=tiny, folder=tmp_path) for text in arguments]
    with pytest.raises(SystemExit) as stopped:
        cli.run(lambda _: inspect.main(given))
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert said in message
    assert "Traceback" not in message


def test_a_peer_that_does_not_fit_is_refused_by_its_line(tmp_path: Path) -> None:
    good = (ROOT / "analysis" / "paper" / "peers.csv").read_text().splitlines()
    path = tmp_path / "peers.csv"
    path.write_text("\n".join([good[0], good[3], good[3].replace(",24,", ",many,", 1)]))
    with pytest.raises(UserError, match=re.escape(f"{path}:3: SmolLM: ")):
        read_peers(path)


@pytest.mark.parametrize("command", ["inspect", "bench"])
def test_help_waits_for_no_torch(command: str) -> None:
    code = (
        f"import sys; from hymba_lab.{command} import arguments; arguments().format_help(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


BENCH = ["--seq-len", "12", "--batch", "4", "--new-tokens", "3", "--chunk", "5", "--device", "cpu"]


def test_bench_measures_the_batch_asked_for(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([str(tiny), *BENCH, "--dtype", "fp32", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    (line,) = data["results"]
    model = load_config(tiny).model
    assert (line["batch"], data["batch_asked"]) == (4, 4)
    assert line["cache_bytes"] == 4 * held_bytes(model, VOCAB, 12 + 3, torch.float32)
    assert line["params"] == measure_costs(model, VOCAB, 8).params
    assert line["prefill_tokens_per_s"] > 0 and line["decode_tokens_per_s"] > 0
    assert line["peak_bytes"] > line["cache_bytes"]


@pytest.mark.parametrize(("fits", "batch"), [(4, "4"), (2, "2"), (1, "1"), (0, "—")])
def test_bench_halves_the_batch_until_it_fits(
    fits: int,
    batch: str,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = throughput._run

    def small(model: object, n_rows: int, protocol: object) -> dict[str, float]:
        if n_rows > fits:
            raise torch.OutOfMemoryError("too large")
        return run(model, n_rows, protocol)

    monkeypatch.setattr(throughput, "_run", small)
    assert bench.main([str(tiny), *BENCH]) == (0 if fits else 1)
    text = capsys.readouterr().out
    assert re.search(rf"tiny +(?:[\d,]+|—) +{batch} ", text)
    assert "asked for a batch of 4" in " ".join(text.split())


def test_bench_does_not_start_what_a_cpu_has_no_memory_for(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def may_fit(n_bytes: int, _: object) -> bool:
        asked.append(n_bytes)
        return len(asked) != 2  # the weights fit, four rows do not, two do

    monkeypatch.setattr(throughput, "_may_fit", may_fit)
    assert bench.main([str(tiny), *BENCH, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["batch"] == 2
    row = held_bytes(load_config(tiny).model, VOCAB, 12 + 3, torch.bfloat16)
    assert asked[1] == 2 * asked[2] > 4 * row


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--batch", "0"], "'0' is no whole number from 1"),
        (["--seq-len", "-1"], "--seq-len: '-1' is no whole number from 1"),
        (["--device", "moon"], "moon"),
    ],
)
def test_bench_refuses_what_cannot_be(
    wrong: list[str], said: str, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, UserError)) as refused:
        bench.main([str(tiny), *BENCH, *wrong])
    told = str(refused.value) if isinstance(refused.value, UserError) else capsys.readouterr().err
    assert said in told and getattr(refused.value, "code", 2) == 2
