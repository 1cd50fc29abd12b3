"""Bad input: one clear error each, before anything is computed."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from surroundings import somebody
from test_cache import HYMBA, VOCAB, model_of
from test_parity import FOLDER
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from hymba_lab import load_pretrained
from hymba_lab.checkpoints.load import ends_of, load
from hymba_lab.commands.generate import main
from hymba_lab.errors import CheckpointError, UserError

IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])

REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "id too large": (
        {"input_ids": torch.tensor([[1, VOCAB]])},
        r"holds 13; the vocabulary's ids are 0\.\.12",
    ),
    "negative id": ({"input_ids": torch.tensor([[-1, 2]])}, r"holds -1; the vocabulary"),
    "floats": ({"input_ids": torch.tensor([[1.0]])}, r"float32 \[1, 1\]; give integers"),
    "one axis": ({"input_ids": torch.tensor([1, 2])}, r"int64 \[2\]; give integers \(B, T\)"),
    "no token": ({"input_ids": torch.empty(1, 0, dtype=torch.long)}, r"\[1, 0\]; give integers"),
    "mask of another shape": (
        {"attention_mask": torch.ones(2, 2)},
        r"attention_mask \[2, 2\] must be of the shape of input_ids, \[2, 3\]",
    ),
    "mask of other values": (
        {"attention_mask": torch.full((2, 3), 2)},
        "with 1 at tokens and 0 at padding",
    ),
    "a row of padding": (
        {"attention_mask": torch.tensor([[1, 1, 1], [0, 0, 0]])},
        r"rows \[1\] of attention_mask are all padding",
    ),
    "negative temperature": ({"temperature": -0.5}, r"temperature = -0\.5: give 0 .* or a finite"),
    "no temperature": ({"temperature": math.nan}, "temperature = nan: give 0"),
    "infinite temperature": ({"temperature": math.inf}, "temperature = inf: give 0"),
    "top_k": ({"top_k": 0}, "top_k = 0: give at least 1"),
    "top_p of nothing": ({"top_p": 0.0}, r"top_p = 0\.0: give a share in \(0, 1\]"),
    "top_p above one": ({"top_p": 1.5}, r"top_p = 1\.5: give a share"),
    "no new token": ({"max_new_tokens": 0}, "max_new_tokens = 0: give at least 1"),
    "chunk": ({"chunk_size": 0}, "chunk_size = 0: give at least 1 token"),
    "eos": ({"eos": [2, 99]}, r"eos = \[2, 99\]: the vocabulary's ids are 0\.\.12"),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_a_request_that_cannot_be(case: str) -> None:
    options, message = REQUESTS[case]
    with pytest.raises(UserError, match=message):
        model_of(n_layers=1).stream(**{"input_ids": IDS} | options)


def test_ids_of_padding_do_not_matter() -> None:
    model = model_of(**HYMBA)
    ids, mask = torch.tensor([[1, 2, -100]]), torch.tensor([[1, 1, 0]])
    made = model.generate(ids, mask, max_new_tokens=3)
    assert torch.equal(made[:, 3:], model.generate(ids[:, :2], max_new_tokens=3)[:, 2:])


@pytest.mark.parametrize(("n_prompt", "n_new"), [(129, 1), (128, 1), (100, 29)])
def test_a_prompt_longer_than_the_positions(n_prompt: int, n_new: int) -> None:
    """The tiny checkpoint's NTK RoPE is stretched to 128 positions."""
    model = load_pretrained(FOLDER)
    ids = torch.ones(1, n_prompt, dtype=torch.long)
    with pytest.raises(UserError, match=rf"{n_prompt} tokens.*max_new_tokens = {n_new}.* for 128"):
        model.generate(ids, max_new_tokens=n_new)
    fitting = model.generate(ids[:, :99], max_new_tokens=29)
    assert fitting.shape[1] == 128


# --- checkpoints


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "weights.safetensors"])
def test_a_file_without_the_right_to_read_it_is_not_called_damaged(
    name: str, open_place: Path
) -> None:
    shutil.copyfile(FOLDER / "config.json", open_place / "config.json")
    file = open_place / name
    (torch.save if name.endswith("bin") else save_file)({"a": torch.zeros(2)}, file)
    (open_place / "config.json").chmod(0o644)
    file.chmod(0)
    with somebody(65534), pytest.raises(CheckpointError, match=f"{name}: cannot be read: Permis"):
        load(file if name.startswith("weights") else open_place, None, texts=False)


def config_with(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return change


def weights_cut(share: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[: int(len(content) * share)])

    return change


def weights_with(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return rewrite


def header_damaged(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[8:40] = b"\xff" * 32
    (folder / "model.safetensors").write_bytes(content)


def pickle_damaged(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    content = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(content[: len(content) // 2])
    (folder / "model.safetensors").unlink()


def pickle_with(old: bytes, new: bytes) -> Callable[[Path], None]:
    """A torch file of two tensors with some bytes changed; torch looks at no checksum."""

    def change(folder: Path) -> None:
        place = folder / "pytorch_model.bin"
        torch.save({"a": torch.ones(3), "b": torch.ones(2)}, place)
        content = place.read_bytes()
        assert old in content
        place.write_bytes(content.replace(old, new, 1))
        (folder / "model.safetensors").unlink()

    return change


def pickle_empty(folder: Path) -> None:
    (folder / "pytorch_model.bin").touch()
    (folder / "model.safetensors").unlink()


def older_pickle_cut(folder: Path) -> None:
    place = folder / "pytorch_model.bin"
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, place, _use_new_zipfile_serialization=False)
    place.write_bytes(place.read_bytes()[:-1000])
    (folder / "model.safetensors").unlink()


def pickle_without_names(folder: Path) -> None:
    torch.save({1: torch.zeros(2), None: torch.zeros(2)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def pickle_of_code(folder: Path) -> None:
    torch.save({"model.memory_tokens": Path("x")}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def shard_missing(folder: Path) -> None:
    index = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def index_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../other"}}')


def whole_numbers(weights: dict[str, Any]) -> None:
    weights["model.layers.0.mamba.D.0"] = weights["model.layers.0.mamba.D.0"].to(torch.int8)


def several_tensors(weights: dict[str, Any]) -> None:
    del weights["model.layers.2.mamba.D.0"], weights["model.layers.0.mamba.A_log.0"]
    weights["model.layers.9.mamba.D.0"] = torch.zeros(3)
    weights["model.final_layernorm.weight"] = torch.zeros(47)


FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (weights_cut(0.7), "not a whole safetensors file"),
    "cut in the header": (weights_cut(0.001), "not a whole safetensors file"),
    "header damaged": (header_damaged, "not a whole safetensors file"),
    "pickle truncated": (pickle_damaged, "not a whole torch file"),
    "pickle empty": (pickle_empty, r"not a whole torch file of tensors \(EOFError\)"),
    "pickle of no letters": (pickle_with(b"\1\0\0\0a", b"\1\0\0\0\xff"), "not a whole torch file"),
    "pickle of an unknown part": (pickle_with(b"h\2", b"h\xee"), "not a whole torch file"),
    "pickle that takes from nothing": (pickle_with(b"QK", b"RK"), "not a whole torch file"),
    "older pickle truncated": (older_pickle_cut, "not a whole torch file"),
    "pickle without names": (pickle_without_names, "not a mapping from names to tensors"),
    "pickle of more than tensors": (pickle_of_code, "not a whole torch file of tensors"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights; expected"),
    "shard missing": (shard_missing, "missing are model-00002-of-00002.safetensors"),
    "index out of the folder": (index_elsewhere, "not an index of shards"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "no such file"),
    "broken configuration": (
        lambda folder: (folder / "config.json").write_text("{"),
        "config.json: not a JSON file",
    ),
    "another model": (config_with(model_type="llama"), "model_type is 'llama'; this loads 'hymba'"),
    "values not covered": (
        config_with(kq_norm="rms", num_experts=4, mamba_d_state="16"),
        r"(?s)num_experts: 4 given.*kq_norm: 'rms' given.*mamba_d_state: '16' given",
    ),
    "numbers beyond any model": (
        config_with(
            max_position_embeddings=10**400,
            orig_max_position_embeddings=10**400,
            hidden_size=10**400,
            num_hidden_layers=10**9,  # every list of layers would fill the memory
        ),
        r"(?s)hidden_size: 10+ given; .* less than or equal to 2147483648.*num_hidden_layers: 10+ "
        r"given; .* equal to 2000.*max_position_embeddings: 10+ given.*orig_max_position_emb",
    ),
    "dynamic rope": (config_with(rope_type="dynamic_ntk"), "rope_type: 'dynamic_ntk' given"),
    "ntk without its start": (
        config_with(orig_max_position_embeddings=None),
        "orig_max_position_embeddings is not given",
    ),
    "odd heads": (config_with(num_attention_heads=5), "48 is no multiple of num_attention_heads"),
    "head of another width": (config_with(kq_head_dim=16), "kq_head_dim = 16: .* works with 8"),
    "unequal windows": (config_with(kv_reuse_group=[[2, 3]]), r"group \[2, 3\] must list"),
    "layer out of range": (config_with(global_attn_idx=[0, 9]), r"\[0, 9\] must list different"),
    "shape of another model": (
        config_with(intermediate_size=100),
        r"misshapen: model.layers.0.moe.experts.0.down_proj.weight is \[48, 96\], .* \[48, 100\]",
    ),
    "whole numbers": (
        weights_with(whole_numbers),
        "not in floating point: model.layers.0.mamba.D.0 is I8; quantized weights are not read",
    ),
    "several tensors": (
        weights_with(several_tensors),
        r"(?s)misshapen: model.final_layernorm.weight.*missing: model.layers.0.mamba.A_log.0"
        r".*missing: model.layers.2.mamba.D.0.*not of this model: model.layers.9.mamba.D.0",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_cannot_be_loaded(case: str, tmp_path: Path) -> None:
    change, message = FOLDERS[case]
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(FOLDER / name, tmp_path / name)
    change(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)


def talking_folder(folder: Path, **values: Any) -> Path:
    """The tiny checkpoint with a tokenizer of one word; `values` go into its config.json."""
    shutil.copyfile(FOLDER / "model.safetensors", folder / "model.safetensors")
    config = json.loads((FOLDER / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))
    Tokenizer(WordLevel({"a": 3}, "a")).save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("key", ["eos_token_id", "bos_token_id"])
@pytest.mark.parametrize("given", ["2", [2, None], [[2]], {"a": 1}, 2.0, True, [True]], ids=str)
def test_what_ends_a_text_is_ids(given: Any, key: str, file: str, tmp_path: Path) -> None:
    folder = talking_folder(tmp_path)
    content = json.loads((folder / "config.json").read_text()) if file == "config.json" else {}
    (folder / file).write_text(json.dumps(content | {key: given}))
    said = re.escape(f"{folder / file}: {key} is {json.dumps(given)}; give the id of a token")
    with pytest.raises(CheckpointError, match=said):
        main([str(folder), "--prompt", "a", "--max-new-tokens", "1"])
    if key == "eos_token_id":
        with pytest.raises(CheckpointError, match=said):
            main([str(folder), "--ids", "1", "--max-new-tokens", "1"])


def test_the_ids_of_generation_go_before(tmp_path: Path) -> None:
    folder = talking_folder(tmp_path, eos_token_id=[2, 5, 10**30], bos_token_id=1)
    assert ends_of(folder) == [2, 5, 10**30]
    codec = load(folder, None, texts=True)[1]
    assert codec and codec.eos == [2, 5] and codec.bos == 1
    (folder / "generation_config.json").write_text('{"eos_token_id": 7, "bos_token_id": null}')
    codec = load(folder, None, texts=True)[1]
    assert codec and codec.eos == [7] and codec.bos is None


def test_shards_in_a_subfolder_and_a_leftover_buffer(tmp_path: Path) -> None:
    weights = load_file(FOLDER / "model.safetensors")
    leftover = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    (tmp_path / "parts").mkdir()
    shutil.copyfile(FOLDER / "config.json", tmp_path / "config.json")
    save_file(weights | leftover, tmp_path / "parts/a.safetensors")
    index = {"weight_map": dict.fromkeys(weights | leftover, "parts/a.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(load_pretrained(tmp_path)(ids), load_pretrained(FOLDER)(ids))


def test_weights_that_are_no_numbers() -> None:
    model = model_of(n_layers=1)
    model.norm.weight.data[0] = math.nan
    for temperature in (0.0, 1.0):
        with pytest.raises(UserError, match=r"rows \[0, 1\] have logits that are no numbers"):
            model.generate(IDS, temperature=temperature)


def test_a_temperature_near_zero_takes_the_likeliest() -> None:
    model = model_of(n_layers=1)
    greedy = model.generate(IDS, max_new_tokens=5)
    for temperature in (1e-40, 1e-300, 1e-4):
        assert torch.equal(model.generate(IDS, max_new_tokens=5, temperature=temperature), greedy)


def test_either_name_of_a_precision(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("bf16", "bfloat16"):
        assert main([str(FOLDER), "--ids", "1 2", "--max-new-tokens", "3", "--dtype", name]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_a_precision_that_is_none() -> None:
    for dtype in ("bfloat", torch.int8, "int64"):
        with pytest.raises(CheckpointError, match="give float32, bfloat16"):
            load_pretrained(FOLDER, dtype)


COMMANDS: dict[str, tuple[list[str], str]] = {
    "nothing to do": ([str(FOLDER)], "nothing to continue"),
    "words for ids": ([str(FOLDER), "--ids", "one two"], "write ids of tokens"),
    "an id beyond any": ([str(FOLDER), "--ids", "9" * 30], "write ids of tokens"),
    "half an id": ([str(FOLDER), "--ids", "1.5"], "write ids of tokens"),
    "no tokenizer": ([str(FOLDER), "--prompt", "a"], "no tokenizer.json"),
    "no folder": (["nowhere", "--ids", "1"], "no such file"),
    "no prompt at all": ([str(FOLDER), "--ids", ""], "write ids of tokens"),
    "a device that is none": ([str(FOLDER), "--ids", "1", "--device", "foo"], "no such device"),
    "weights of no run": (
        [str(FOLDER / "model.safetensors"), "--ids", "1"],
        "holds no configuration",
    ),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_a_command_that_cannot_run(case: str) -> None:
    arguments, message = COMMANDS[case]
    with pytest.raises(UserError, match=message):
        main(arguments)


def test_a_cache_beyond_the_memory_is_told() -> None:
    """What is asked for is 10^14 bytes; the system refuses it before any is used."""
    with pytest.raises(UserError, match=r"a cache of 2 texts of .* tokens is larger than the mem"):
        model_of(n_layers=1).stream(IDS, max_new_tokens=10**13)


def test_no_thread_is_refused_by_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(FOLDER), "--ids", "1", "--threads", "0"])
    assert ended.value.code == 2
    assert "--threads: '0' is no whole number from 1" in capsys.readouterr().err
