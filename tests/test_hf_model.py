"""The adapter: equal logits, released names both ways, strict loading, packed and padded rows."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_folders import FOLDER, HYMBA, lab_model, load, padded, prompts, tiny_folder
from hypothesis import given, settings
from safetensors.torch import load_file, save_file
from test_cache import architectures
from test_generate_bad_input import FOLDERS
from test_hf_checkpoint import CONFIG, bits, configurations, random_weights, write_folder
from test_parity import DATA
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

import hymba_lab
from hymba_lab.checkpoints.load import load as lab_load
from hymba_lab.components.fusion import fusions
from hymba_lab.errors import CheckpointError, UserError
from hymba_lab.hf import (
    HymbaConfig,
    HymbaForCausalLM,
    HymbaLabConfig,
    HymbaLabForCausalLM,
    HymbaLabModel,
    HymbaModel,
)

TOKENS = torch.randint(0, 97, (2, 20), generator=torch.Generator().manual_seed(0))


# --- logits and names


@torch.no_grad()
def test_the_tiny_checkpoint(tmp_path: Path) -> None:
    model, ours = load(FOLDER), hymba_lab.load_pretrained(FOLDER)
    assert isinstance(model, HymbaForCausalLM)
    assert torch.equal(model(TOKENS, use_cache=False).logits, ours(TOKENS))
    backbone = AutoModel.from_pretrained(FOLDER)
    assert torch.equal(backbone(TOKENS, use_cache=False).last_hidden_state, ours.features(TOKENS))
    model.save_pretrained(tmp_path)
    saved = (tmp_path / "model.safetensors").read_bytes()
    assert saved == (FOLDER / "model.safetensors").read_bytes()


@pytest.mark.slow
@settings(max_examples=10, deadline=None, derandomize=True)
@given(config=configurations())
def test_ten_configurations_there_and_back(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]
) -> None:
    folder = write_folder(tmp_path_factory.mktemp("model"), config, None)
    weights = random_weights(folder)
    write_folder(folder, config, weights)
    model, ours = load(folder), hymba_lab.load_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(model(TOKENS, use_cache=False).logits, ours(TOKENS))
    model.save_pretrained(folder / "again")
    assert bits(load_file(folder / "again/model.safetensors")) == bits(weights)
    again = hymba_lab.load_pretrained(folder / "again")
    with torch.no_grad():
        assert torch.equal(again(TOKENS), ours(TOKENS))


def test_the_configuration_file_keeps_its_values(tmp_path: Path) -> None:
    """Also those that transformers takes for its own, such as attn_implementation: flex."""
    model = load(tiny_folder(tmp_path / "a", auto_map={"AutoConfig": "configuration_hymba.X"}))
    model.save_pretrained(tmp_path / "b")
    written = json.loads((tmp_path / "b/config.json").read_text())
    expected = json.loads((tmp_path / "a/config.json").read_text())
    changed = {key for key in expected if written.get(key) != expected[key]}
    assert changed == {"transformers_version", "use_cache"}
    assert written["use_cache"] is True, "false would read the whole prefix again at every token"


@pytest.mark.slow
def test_the_published_model_on_the_meta_device() -> None:
    config = AutoConfig.from_pretrained(DATA / "hymba_1p5b_config.json")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert model.num_parameters() == 1_522_797_824
    names = revert_weight_conversion(model, model.state_dict())
    names.pop("lm_head.weight")  # tied: not written
    assert len(names) == 611
    assert names["model.layers.18.mamba.in_proj.weight"].shape == (1600 + 6400, 1600)
    assert names["model.layers.0.mamba.conv1d.weight"].shape == (3200, 1, 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, "float64", "auto"])
def test_precisions_shards_and_device_maps(dtype: Any, tmp_path: Path) -> None:
    model = load(FOLDER, dtype=dtype, device_map="cpu")
    wanted = {"float64": torch.float64, "auto": torch.float32}.get(str(dtype), dtype)
    assert {p.dtype for p in model.parameters()} == {wanted}
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    again = load(tmp_path)
    assert again.dtype == wanted
    assert bits(dict(again.state_dict())) == bits(dict(model.state_dict()))
    assert hymba_lab.load_pretrained(tmp_path).embedding.weight.dtype == wanted


@settings(max_examples=6, deadline=None, derandomize=True)
@given(architecture=architectures())
def test_any_architecture_of_the_lab(
    tmp_path_factory: pytest.TempPathFactory, architecture: dict[str, Any]
) -> None:
    folder, model = tmp_path_factory.mktemp("model"), lab_model(**architecture)
    model.save_pretrained(folder)
    again = load(folder)
    assert isinstance(again, HymbaLabForCausalLM)
    tokens = TOKENS % 13
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize(
    "part",
    [{"fusion": {"name": "gate"}}, {"tie_embeddings": False}, {"order": {"name": "sequential"}}],
    ids=lambda part: next(iter(part)),
)
def test_architectures_without_released_words(part: dict[str, Any], tmp_path: Path) -> None:
    model = lab_model(**HYMBA | part)
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(TOKENS % 13).logits, model(TOKENS % 13).logits)
    assert (again.lm_head.weight is again.model.net.embedding.weight) == (
        part.get("tie_embeddings", True)
    )


def test_a_larger_vocabulary_stays_tied(tmp_path: Path) -> None:
    for model in (load(FOLDER), lab_model()):
        model.resize_token_embeddings(100, mean_resizing=False)
        assert model.lm_head.weight is model.model.net.embedding.weight
        start = model.config.initializer_range
        assert model.lm_head.weight[97:].std().item() == pytest.approx(start, rel=0.3)
        model.save_pretrained(tmp_path)
        assert load(tmp_path).lm_head.weight.shape[0] == 100


class Toned(nn.Module):
    """A fusion of somebody's, with a buffer that no file holds."""

    def __init__(self, d_attn: int, d_ssm: int, d_model: int) -> None:
        super().__init__()
        self.out = nn.Linear(d_attn, d_model, bias=False)
        self.tone: Tensor
        self.register_buffer("tone", torch.linspace(0.5, 1.5, d_attn), persistent=False)

    def forward(self, a: Tensor, s: Tensor) -> Tensor:
        y: Tensor = self.out(self.tone * (a + s))
        return y


@torch.no_grad()
@pytest.mark.usefixtures("no_plugin_stays")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_buffer_that_no_file_holds_is_as_it_was_made(dtype: torch.dtype, tmp_path: Path) -> None:
    fusions.register("toned")(Toned)
    model = lab_model(**HYMBA | {"fusion": {"name": "toned"}}).to(dtype)
    model.save_pretrained(tmp_path)
    again, backbone = load(tmp_path), AutoModel.from_pretrained(tmp_path)
    for net in (again.model.net, backbone.net):
        for name, buffer in model.model.net.named_buffers():
            assert torch.equal(net.get_buffer(name), buffer)
    assert torch.equal(again(TOKENS % 13).logits, model(TOKENS % 13).logits)


@torch.no_grad()
def test_a_class_by_its_name_loads_the_folders_of_its_kind_alone(tmp_path: Path) -> None:
    model = lab_model(**HYMBA)
    model.save_pretrained(tmp_path)
    again = HymbaLabForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(TOKENS % 13).logits, model(TOKENS % 13).logits)
    features = HymbaLabModel.from_pretrained(str(tmp_path))(TOKENS % 13).last_hidden_state
    assert torch.equal(features, model.model(TOKENS % 13).last_hidden_state)
    given = HymbaLabForCausalLM.from_pretrained(tmp_path, config=model.config)
    assert torch.equal(given.lm_head.weight, model.lm_head.weight)
    for kind in (HymbaLabForCausalLM, HymbaLabModel):
        with pytest.raises(CheckpointError, match=r"model_type is not 'hymba_lab'.*AutoModel"):
            kind.from_pretrained(FOLDER)
    for released in (HymbaForCausalLM, HymbaModel):
        with pytest.raises(CheckpointError, match="model_type is 'hymba_lab'; this loads 'hymba'"):
            released.from_pretrained(tmp_path)


# --- padded and packed rows


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side(side: str) -> None:
    model, rows = lab_model(**HYMBA), prompts(9)
    batch = padded(rows, side)
    logits = model(**batch).logits
    for row, mask, alone in zip(logits, batch["attention_mask"], rows, strict=True):
        torch.testing.assert_close(row[mask.bool()], model(alone[None]).logits[0])


@torch.no_grad()
def test_a_hole_in_the_mask_is_left_out() -> None:
    model, ids = lab_model(**HYMBA), torch.tensor([[1, 2, 0, 3, 4]])
    mask = torch.tensor([[1, 1, 0, 1, 1]])
    whole = model(torch.tensor([[1, 2, 3, 4]])).logits[0]
    torch.testing.assert_close(model(ids, attention_mask=mask).logits[0][mask[0].bool()], whole)


def packed(documents: list[Tensor]) -> dict[str, dict[str, Tensor]]:
    """One row of several documents, in the words that trainers have for it."""
    lengths = torch.tensor([len(document) for document in documents])
    return {
        "position_ids": {
            "position_ids": torch.cat([torch.arange(n) for n in lengths.tolist()])[None]
        },
        "seq_idx": {"seq_idx": torch.arange(len(documents)).repeat_interleave(lengths)[None]},
        "cu_seq_lens_q": {
            "cu_seq_lens_q": torch.cat([torch.zeros(1), lengths.cumsum(0)]).to(torch.int32)
        },
    }


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("word", ["position_ids", "seq_idx", "cu_seq_lens_q"])
@pytest.mark.parametrize("part", [{}, {"order": {"name": "interleaved", "pattern": "s"}}], ids=str)
def test_packed_documents_know_nothing_of_each_other(word: str, part: dict[str, Any]) -> None:
    model, documents = lab_model(**HYMBA | part), prompts(6)
    logits = model(torch.cat(documents)[None], **packed(documents)[word]).logits[0]
    alone = torch.cat([model(document[None]).logits[0] for document in documents])
    torch.testing.assert_close(logits, alone)
    together = model(torch.cat(documents)[None]).logits[0]
    assert (together - alone).abs().max() > 0.01, "as one text they would"


@torch.no_grad()
def test_packed_rows_of_a_batch_with_padding_behind() -> None:
    model, documents = lab_model(**HYMBA), prompts(4)
    rows = [torch.cat(documents[:2]), torch.cat(documents[2:])]
    batch = padded(rows, "right")
    places = [packed(documents[:2]), packed(documents[2:])]
    positions = padded([place["position_ids"]["position_ids"][0] for place in places], "right")
    logits = model(**batch, position_ids=positions["input_ids"]).logits
    alone = torch.cat([model(document[None]).logits[0] for document in documents])
    torch.testing.assert_close(logits[batch["attention_mask"].bool()], alone)


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([0, 7, 0], "holds 7 where token 1"),
        ([0, 7, 1], "holds 7 where token 1"),
        ([7, 8, 9], "holds 7 where token 0"),
        ([3, 1, 1], "holds 3 where token 0"),
        ([0, 1, 3], "holds 3 where token 2"),
    ],
)
def test_positions_that_are_no_documents(given: list[int], said: str, use_cache: bool) -> None:
    with pytest.raises(UserError, match=f"position_ids {said} of a document stands"):
        lab_model()(
            torch.tensor([[1, 2, 3]]), position_ids=torch.tensor([given]), use_cache=use_cache
        )


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_that_say_what_the_mask_says_change_nothing(side: str, use_cache: bool) -> None:
    """As `generate` makes them: 0 at padding, and rows of one document from their first token."""
    model, batch = lab_model(**HYMBA), padded(prompts(5), side)
    places = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    given = model(**batch, position_ids=places, use_cache=use_cache).logits
    assert torch.equal(given, model(**batch, use_cache=use_cache).logits)


@pytest.mark.parametrize(
    "asked", ["output_attentions", "output_hidden_states", "inputs_embeds", "nothing"]
)
def test_what_the_model_does_not_give(asked: str) -> None:
    value: Any = torch.zeros(1, 1, 16) if asked == "inputs_embeds" else True
    arguments = {} if asked == "nothing" else {asked: value, "input_ids": torch.tensor([[1]])}
    with pytest.raises(UserError, match=asked if asked != "nothing" else "give token ids"):
        lab_model()(**arguments)


# --- strict loading


@pytest.mark.parametrize("case", [name for name in FOLDERS if name != "no configuration"])
def test_a_folder_that_cannot_be_loaded(case: str, tmp_path: Path) -> None:
    """The same message as `load_pretrained`, but for what transformers itself finds first."""
    change, message = FOLDERS[case]
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(FOLDER / name, tmp_path / name)
    change(tmp_path)
    if case in ("broken configuration", "another model"):
        with pytest.raises((OSError, ValueError)):
            load(tmp_path)
        return
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


def test_a_missing_tensor_of_a_lab_folder_is_an_error(tmp_path: Path) -> None:
    lab_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gone = weights.pop("model.net.blocks.0.norm1.weight")
    save_file(weights | {"model.more": gone}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"(?s)missing: model.net.blocks.0.norm1.*not of this"
    ):
        load(tmp_path)


def test_a_state_that_lacks_a_tensor_is_an_error() -> None:
    weights = load_file(FOLDER / "model.safetensors")
    del weights["model.layers.2.mamba.D.0"]
    with pytest.raises(CheckpointError, match=r"missing: .*blocks\.2\.mixer\.ssm\.D"):
        HymbaForCausalLM.from_pretrained(
            None, config=AutoConfig.from_pretrained(FOLDER), state_dict=weights
        )


@pytest.mark.parametrize(
    "values",
    [
        {"num_experts": 16, "kq_norm": "rms"},
        {"vocab_size": -1},
        {"hidden_size": 48.5},
        {"max_position_embeddings": 10**400},
    ],
    ids=lambda values: next(iter(values)),
)
def test_a_configuration_of_values_not_covered(values: dict[str, Any]) -> None:
    config = AutoConfig.from_pretrained(FOLDER)
    for key, value in values.items():
        (config.aside if key in config.aside else vars(config))[key] = value
    said = ".*".join(f"{key}: {value!r} given; input should" for key, value in values.items())
    with pytest.raises(CheckpointError, match=rf"(?s)config\.json: not covered:.*{said}"):
        HymbaForCausalLM(config)


@pytest.mark.parametrize("lab", [None, [1], "x"], ids=str)
def test_a_lab_configuration_without_its_architecture(lab: Any) -> None:
    with pytest.raises(CheckpointError, match="hymba_lab without `lab`"):
        HymbaLabForCausalLM(HymbaLabConfig(lab=lab))


@pytest.mark.parametrize("vocab", [True, -3, 0, 10**19, 2.5, "13", None], ids=str)
def test_a_lab_vocabulary_that_is_none(vocab: Any, tmp_path: Path) -> None:
    model = lab_model()
    model.save_pretrained(tmp_path)
    place = tmp_path / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"vocab_size": vocab}))
    with pytest.raises(CheckpointError, match=rf"config\.json: vocab_size is {vocab!r}; it is the"):
        lab_load(tmp_path, None, texts=False)
    model.config.vocab_size = vocab
    with pytest.raises(CheckpointError, match=f"vocab_size is {vocab!r}; it is the number of"):
        HymbaLabForCausalLM(model.config)


def test_defaults_are_the_released_ones() -> None:
    config = HymbaConfig()
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 1, 2)
    assert not config.tie_word_embeddings and config.auto_map == {}
    assert CONFIG["attn_implementation"] == "flex", "the key that transformers refuses"
