"""Checkpoints in the released format, both ways, over the space of its configurations."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from examples import model_config
from hypothesis import given, settings
from hypothesis import strategies as st
from released_by_hand import logits_by_hand
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_parity import DATA, FOLDER, TOLERANCE, architecture, renamed
from torch import Tensor

from hymba_lab import load_pretrained, save_pretrained
from hymba_lab.checkpoints.hf_checkpoint import meta_model, released_tensors, tensor_names
from hymba_lab.checkpoints.hf_config import read_released
from hymba_lab.config import load_config
from hymba_lab.errors import CheckpointError
from hymba_lab.model import build_model, plan_layers

Weights = dict[str, Tensor]
CONFIG: dict[str, Any] = json.loads((FOLDER / "config.json").read_text())


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_file(FOLDER / "model.safetensors")


@pytest.fixture(scope="module")
def expected() -> Weights:
    return load_file(FOLDER / "expected.safetensors")


def bits(tensors: Weights) -> dict[str, bytes]:
    return {
        name: tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        for name, tensor in tensors.items()
    }


def write_folder(folder: Path, config: dict[str, Any], weights: Weights | None) -> Path:
    """A folder in the released format."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if weights is not None:
        save_file(weights, folder / "model.safetensors")
    return folder


def random_weights(folder: Path) -> Weights:
    """Random tensors of the shapes that a configuration file asks for."""
    path = folder / "config.json"
    random = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(ghost.shape, generator=random) * 0.2
        for name, ghost in released_tensors(meta_model(read_released(path)[0], path)).items()
    }


# --- the reference


@torch.no_grad()
def test_logits_equal_the_released_code(expected: Weights) -> None:
    logits = load_pretrained(FOLDER)(expected["input_ids"])
    torch.testing.assert_close(logits, expected["logits"], rtol=0, atol=TOLERANCE)


def test_saved_and_loaded_again_is_the_same(tmp_path: Path, weights: Weights) -> None:
    save_pretrained(load_pretrained(FOLDER), tmp_path)
    save_pretrained(load_pretrained(tmp_path), tmp_path)  # over the file it is mapped from
    assert bits(load_file(tmp_path / "model.safetensors")) == bits(weights)
    assert json.loads((tmp_path / "config.json").read_text()) == CONFIG
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}, "transformers refuses files without it"
    assert not list(tmp_path.glob("*.partial"))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["shards", "pickle", "pickle shards", "older pickle shards"])
def test_every_layout_of_files(
    kind: str, tmp_path: Path, weights: Weights, expected: Weights
) -> None:
    folder = write_folder(tmp_path, CONFIG, None)
    names = sorted(weights)
    name, suffix = ("pytorch_model", "bin") if "pickle" in kind else ("model", "safetensors")
    index = {}
    cuts = 3 if "shards" in kind else 1
    for cut in range(cuts):
        part = {name: weights[name] for name in names[cut::cuts]}
        file = f"{name}-{cut + 1:05}-of-{cuts:05}.{suffix}" if cuts > 1 else f"{name}.{suffix}"
        if "older" in kind:
            torch.save(part, folder / file, _use_new_zipfile_serialization=False)
        else:
            (torch.save if suffix == "bin" else save_file)(part, folder / file)
        index |= dict.fromkeys(part, file)
    if cuts > 1:
        (folder / f"{name}.{suffix}.index.json").write_text(json.dumps({"weight_map": index}))
    logits = load_pretrained(folder)(expected["input_ids"])
    torch.testing.assert_close(logits, expected["logits"], rtol=0, atol=TOLERANCE)


def test_a_tied_head_may_be_stored_twice(tmp_path: Path, weights: Weights) -> None:
    twice = weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    model = load_pretrained(write_folder(tmp_path, CONFIG, twice))
    assert model.head is None


# --- memory


def test_weights_are_mapped_not_copied(weights: Weights) -> None:
    """All parameters lie in the file's own mapping, the parts of in_proj side by side."""
    model = load_pretrained(FOLDER)
    assert len({p.untyped_storage().data_ptr() for p in model.parameters()}) <= len(weights)
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if line.endswith("model.safetensors")]
    for parameter in model.parameters():
        place = parameter.data_ptr()
        assert any(int(start, 16) <= place < int(end, 16) for start, end in spans)


def test_training_a_loaded_model_leaves_the_file_alone(tmp_path: Path, weights: Weights) -> None:
    model = load_pretrained(write_folder(tmp_path, CONFIG, weights))
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    assert bits(load_file(tmp_path / "model.safetensors")) == bits(weights)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, "float64"])
def test_another_precision(
    dtype: torch.dtype | str, tmp_path: Path, weights: Weights, expected: Weights
) -> None:
    model = load_pretrained(FOLDER, dtype)
    wanted = torch.bfloat16 if dtype is torch.bfloat16 else torch.float64
    assert {p.dtype for p in model.parameters()} == {wanted}
    error = (model(expected["input_ids"]) - expected["logits"]).abs().max()
    assert error < (2.0 if wanted == torch.bfloat16 else TOLERANCE)
    save_pretrained(model, tmp_path)
    again = load_file(tmp_path / "model.safetensors")
    assert bits(again) == bits({name: tensor.to(wanted) for name, tensor in weights.items()})
    named = CONFIG | {"torch_dtype": str(wanted).removeprefix("torch.")}
    assert json.loads((tmp_path / "config.json").read_text()) == named


@pytest.mark.parametrize("names", [("torch_dtype",), ("dtype",), ("torch_dtype", "dtype"), ()])
def test_the_precision_of_the_weights_stands_in_the_configuration(
    names: tuple[str, ...], tmp_path: Path, weights: Weights
) -> None:
    """Under each name that the file has for it, however the weights came by it."""
    config = {key: value for key, value in CONFIG.items() if key != "torch_dtype"}
    halves = {name: tensor.bfloat16() for name, tensor in weights.items()}
    folder = write_folder(tmp_path / "a", config | dict.fromkeys(names, "bfloat16"), halves)
    partly = load_pretrained(folder)
    partly.norm.float()  # transformers would round it if the file said bfloat16
    kept, wide = load_pretrained(folder), load_pretrained(folder, "float32")
    half = load_pretrained(folder, "float32").to(torch.float16)
    for model, wanted in ((wide, "float32"), (half, "float16"), (partly, "float32")):
        save_pretrained(model, tmp_path / "b")
        said = json.loads((tmp_path / "b/config.json").read_text())
        assert said == config | dict.fromkeys(names, wanted)
    save_pretrained(kept, tmp_path / "b")
    assert json.loads((tmp_path / "b/config.json").read_text()) == json.loads(
        (folder / "config.json").read_text()
    )


@pytest.mark.parametrize("step", ["weights", "configuration"])
def test_a_save_that_is_cut_off_leaves_no_old_configuration_beside_new_weights(
    step: str, tmp_path: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration says "rope": false: with the new weights it would be another model."""
    folder = write_folder(tmp_path, CONFIG | {"rope": False}, weights)

    def cut(*_: Any) -> None:
        raise KeyboardInterrupt

    if step == "weights":
        monkeypatch.setattr("hymba_lab.checkpoints.tensor_files.os.fsync", cut)
    else:
        monkeypatch.setattr("hymba_lab.checkpoints.hf_checkpoint.write_atomically", cut)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(load_pretrained(FOLDER, "float64"), folder)
    if step == "weights":
        assert load_pretrained(folder).embedding.weight.dtype == torch.float32
        assert load_pretrained(folder).released == CONFIG | {"rope": False}
    else:
        with pytest.raises(CheckpointError, match="there is no such file"):
            load_pretrained(folder)


def test_a_folder_without_room_for_the_configuration_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hymba_lab.atomic.os.fsync", full)
    monkeypatch.setattr("hymba_lab.checkpoints.hf_checkpoint.write_safetensors", lambda *_: None)
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be written: No space left"):
        save_pretrained(load_pretrained(FOLDER), tmp_path)


# --- the configuration space


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    n_heads, n_layers = draw(st.sampled_from([2, 4, 6])), draw(st.integers(1, 6))
    full = sorted(draw(st.sets(st.integers(0, n_layers - 1))))
    groups, layer = [], 0
    while layer < n_layers:
        size = draw(st.integers(1, 3))
        group = range(layer, min(layer + size, n_layers))
        if len({index in full for index in group}) == 1:
            groups.append(list(group))
        layer += size
    return CONFIG | {
        "hidden_size": 48,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_heads // draw(st.sampled_from([1, 2])),
        "num_hidden_layers": n_layers,
        "layer_type": ["h"] * n_layers,
        "intermediate_size": draw(st.sampled_from([0, 20])),
        "mlp_hidden_act": draw(st.sampled_from(["silu", "relu2"])),
        "tie_word_embeddings": draw(st.booleans()),
        "rope_type": draw(st.sampled_from(["ntk", "default", None])),
        "rope": draw(st.booleans()),
        "global_attn_idx": full,
        "kv_reuse_group": draw(st.sampled_from([None, [], groups])),
        "sliding_window": draw(st.sampled_from([1, 3, 100])),
        "mamba_d_state": draw(st.sampled_from([4, 16])),
        "mamba_d_conv": draw(st.integers(2, 4)),
        "mamba_dt_rank": draw(st.sampled_from(["auto", 3])),
        "mamba_expand": draw(st.sampled_from([1, 2])),
        "mamba_inner_layernorms": draw(st.booleans()),
        "num_memory_tokens": draw(st.sampled_from([0, 5])),
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-5])),
        "kq_head_dim": draw(st.sampled_from([-1, 48 // n_heads])),
        "attn_hidden_size": draw(st.sampled_from([-1, 48])),
    }


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(config=configurations())
def test_every_configuration_survives_the_way_out_and_in(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]
) -> None:
    folder = write_folder(tmp_path_factory.mktemp("model"), config, None)
    weights = random_weights(folder)
    model = load_pretrained(write_folder(folder, config, weights))
    save_pretrained(model, folder / "again")
    assert bits(load_file(folder / "again/model.safetensors")) == bits(weights)
    assert json.loads((folder / "again/config.json").read_text()) == config
    model.released = None  # now in the words of our own configuration
    save_pretrained(model, folder / "ours")
    ours = load_pretrained(folder / "ours")
    assert bits(load_file(folder / "ours/model.safetensors")) == bits(weights)
    assert plan_layers(ours.config) == plan_layers(model.config)
    with torch.no_grad():
        assert torch.equal(ours(tokens := torch.arange(20).view(1, -1)), model(tokens))


@torch.no_grad()
@pytest.mark.parametrize(
    "values",
    [
        {"tie_word_embeddings": False},
        {"num_key_value_heads": 6},
        {"kv_reuse_group": [[1], [2], [4]]},
        {"global_attn_idx": [0, 5], "kv_reuse_group": [[1, 2, 3]]},
        {"mamba_d_state": 16, "sliding_window": 3},
    ],
    ids=lambda values: next(iter(values)),
)
def test_the_mapping_equals_an_independent_one(
    values: dict[str, Any], tiny: Path, tmp_path: Path
) -> None:
    """`test_parity` has an own table of names and configuration values."""
    config = CONFIG | values
    folder = write_folder(tmp_path / "model", config, None)
    weights = random_weights(folder)
    model = load_pretrained(write_folder(folder, config, weights))
    theirs = load_config(tiny, [f"model={json.dumps(architecture(config))}"])
    other = build_model(theirs.model, config["vocab_size"]).eval()
    state = dict(renamed(weights, other))
    if not config["tie_word_embeddings"]:
        state["head.weight"] = weights["lm_head.weight"]
    other.load_state_dict(state)
    tokens = torch.arange(40).view(2, 20)
    torch.testing.assert_close(model(tokens), other(tokens), rtol=0, atol=1e-6)


OTHERS: dict[str, dict[str, Any]] = {
    "as shared": {},
    "untied head": {"tie_word_embeddings": False},
    "default rope": {"rope_type": "default"},
    "no rope": {"rope": False},
    "no sharing": {"kv_reuse_group": None},
    "groups of one": {"kv_reuse_group": [[1], [2], [4]]},
    "a group of three": {"global_attn_idx": [0, 5], "kv_reuse_group": [[1, 2, 3]]},
    "full layers share": {"global_attn_idx": [0, 1, 5], "kv_reuse_group": [[0, 1], [2, 3, 4]]},
    "a window of one": {"sliding_window": 1},
    "a window longer than the text": {"sliding_window": 500},
    "no full layer": {"global_attn_idx": [], "sliding_window": 3, "kv_reuse_group": [[0, 1, 2]]},
    "d_state 16": {"mamba_d_state": 16, "mamba_dt_rank": "auto"},
    "all key heads": {"num_key_value_heads": 6},
    "one key head": {"num_key_value_heads": 1, "mamba_expand": 1},
    "no meta tokens": {"num_memory_tokens": 0, "sliding_window": 2},
    "other taps": {"mamba_d_conv": 3, "mamba_inner_layernorms": False},
    "squared ReLU": {"mlp_hidden_act": "relu2", "rms_norm_eps": 1e-5},
    "no MLP": {"intermediate_size": 0},
    "everything else": {
        "tie_word_embeddings": False,
        "rope_type": "default",
        "rope_theta": 500.0,
        "num_hidden_layers": 7,
        "layer_type": ["h"] * 7,
        "global_attn_idx": [0, 4],
        "kv_reuse_group": [[1, 2, 3], [5], [6]],
        "sliding_window": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "mamba_d_state": 16,
        "num_memory_tokens": 3,
    },
}


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("values", OTHERS.values(), ids=OTHERS.keys())
def test_a_slow_rewriting_of_the_released_code_agrees(
    values: dict[str, Any], tmp_path: Path
) -> None:
    """Whole and through the cache, token by token: the text is longer than the windows."""
    config = CONFIG | values
    folder = write_folder(tmp_path, config, None)
    weights = random_weights(folder)
    model = load_pretrained(write_folder(folder, config, weights))
    tokens = torch.randint(97, (1, 16), generator=torch.Generator().manual_seed(1))
    expected = logits_by_hand(config, weights, tokens[0].tolist())
    close = {"rtol": 0, "atol": 1e-4 * float(expected.abs().max())}
    torch.testing.assert_close(model(tokens)[0].double(), expected, **close)
    cache = model.cache(1, 16)
    steps = [model.features(part, cache) for part in tokens.split([5, *[1] * 11], 1)]
    through = model.logits(torch.cat(steps, 1))[0]
    torch.testing.assert_close(through.double(), expected, **close)


@pytest.mark.slow
@torch.no_grad()
def test_the_slow_rewriting_is_the_released_code(weights: Weights, expected: Weights) -> None:
    by_hand = logits_by_hand(CONFIG, weights, expected["input_ids"][0].tolist())
    torch.testing.assert_close(by_hand.float(), expected["logits"][0], rtol=0, atol=TOLERANCE)


def test_sharing_counted_in_layers(tmp_path: Path) -> None:
    """`kv_reuse_every_i_layer` counts only where no group is given."""
    every = {"kv_reuse_every_i_layer": 3, "global_attn_idx": [], "num_hidden_layers": 5}
    for groups, kv_from in ((None, [0, 0, 0, 3, 3]), ([[1, 2]], [0, 1, 1, 3, 4])):
        config = CONFIG | every | {"kv_reuse_group": groups}
        path = write_folder(tmp_path, config, None) / "config.json"
        model = meta_model(read_released(path)[0], path)
        assert [layer.kv_from for layer in model.plan] == kv_from


def test_default_rope_is_not_stretched(tmp_path: Path) -> None:
    for values, theta in (
        ({"rope_type": "default"}, 10_000.0),
        ({"rope_type": None}, 10_000.0),
        ({"rope_type": "ntk"}, 10_000 * 7 ** (8 / 6)),
        ({"rope": False}, None),
    ):
        path = write_folder(tmp_path, CONFIG | values, None) / "config.json"
        model = meta_model(read_released(path)[0], path)
        assert model.blocks[0].mixer.attention.rope_theta == pytest.approx(theta)


# --- the published model, and ours


def test_the_published_model() -> None:
    path = DATA / "hymba_1p5b_config.json"
    model = meta_model(read_released(path)[0], path)
    tensors = released_tensors(model)
    assert len(tensors) == len(tensor_names(model)) == 611
    assert sum(p.numel() for p in model.parameters()) == 1_522_797_824
    assert sum(tensor.numel() for tensor in tensors.values()) == 1_522_797_824
    assert tensors["model.layers.0.mamba.in_proj.weight"].shape == (1600 + 960 + 6400, 1600)
    assert tensors["model.layers.18.mamba.in_proj.weight"].shape == (1600 + 6400, 1600)
    assert model.max_tokens == 8192


def test_a_model_trained_here_is_saved_in_the_released_format(tmp_path: Path) -> None:
    config = model_config(
        heads={"name": "hybrid", "n_heads": 2, "n_kv_heads": 1, "d_head": 8},
        meta_tokens={"name": "learned", "n_meta": 3},
        placement={"name": "first_middle_last", "window": 4},
    )
    model = build_model(config, 13)
    save_pretrained(model, tmp_path)
    tokens = torch.arange(12).view(1, -1)
    with torch.no_grad():
        assert torch.equal(load_pretrained(tmp_path)(tokens), model(tokens))


def test_an_architecture_without_released_words_is_refused(tmp_path: Path) -> None:
    for part, said in (
        ({"fusion": {"name": "concat"}}, "fusion: concat"),
        ({"order": {"name": "sequential"}}, "order: sequential"),
        ({"heads": {"name": "hybrid", "n_heads": 4, "d_head": 6}}, "d_head must be"),
        ({"norm_eps": 1e-5}, "fusion.eps"),
    ):
        heads = {"name": "hybrid", "n_heads": 2, "d_head": 8}
        model = build_model(model_config(**{"heads": heads} | part), 13)
        with pytest.raises(CheckpointError, match=f"(?s)no words for.*{said}"):
            save_pretrained(model, tmp_path)
