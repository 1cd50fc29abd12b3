"""generate() of transformers: batches equal their rows and the lab's own loop."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hf_folders import (
    FOLDER,
    HYMBA,
    VOCAB,
    lab_model,
    load,
    padded,
    prompts,
    tiny_folder,
    tiny_tokenizer,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_cache import architectures
from test_parity import N_PROMPT
from transformers import AutoTokenizer, TextIteratorStreamer, pipeline

from hymba_lab.errors import UserError
from hymba_lab.hf import HymbaForCausalLM

GREEDY: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def check_rows(model: HymbaForCausalLM, n_rows: int, n_new: int, seed: int) -> None:
    """A left-padded batch, each row alone and the lab's own loop make the same tokens."""
    rows = prompts(n_rows, seed=seed)
    batch = padded(rows)
    together = model.generate(**batch, max_new_tokens=n_new, **GREEDY)
    assert torch.equal(together[:, :-n_new], batch["input_ids"])
    made = together[:, -n_new:].tolist()
    own = model.model.net.generate(**batch, max_new_tokens=n_new)[:, -n_new:].tolist()
    assert made == own
    for row, tokens in zip(rows, made, strict=True):
        alone = model.generate(row[None], max_new_tokens=n_new, **GREEDY)
        assert alone[0, len(row) :].tolist() == tokens


@settings(max_examples=4, deadline=None, derandomize=True)
@given(architecture=architectures(), seed=st.integers(0, 99))
def test_left_padded_rows_equal_each_alone(architecture: dict[str, Any], seed: int) -> None:
    check_rows(lab_model(seed, **architecture), 5, 8, seed)


@pytest.mark.campaign
@pytest.mark.slow
@settings(max_examples=20, deadline=None, derandomize=True)
@given(architecture=architectures(), seed=st.integers(0, 99))
def test_32_left_padded_rows_equal_each_alone(architecture: dict[str, Any], seed: int) -> None:
    check_rows(lab_model(seed, **architecture), 32, 12, seed)


@settings(max_examples=3, deadline=None, derandomize=True)
@given(architecture=architectures(), n_beams=st.integers(2, 4))
def test_beams_with_the_cache_equal_beams_without(
    architecture: dict[str, Any], n_beams: int
) -> None:
    model, batch = lab_model(**architecture), padded(prompts(3))
    asked = GREEDY | {"num_beams": n_beams, "num_return_sequences": 2, "max_new_tokens": 6}
    made = model.generate(**batch, **asked)
    assert torch.equal(made, model.generate(**batch, **asked, use_cache=False))


def test_the_released_continuation() -> None:
    expected = load_file(FOLDER / "expected.safetensors")["greedy_ids"]
    made = load(FOLDER).generate(
        expected[:, :N_PROMPT], max_new_tokens=expected.shape[1] - N_PROMPT, **GREEDY
    )
    assert made.tolist() == expected.tolist()


def test_the_released_file_says_no_cache_and_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step after the prompt reads one token."""
    model, widths = load(FOLDER), []
    features = model.model.net.features
    monkeypatch.setattr(
        model.model.net,
        "features",
        lambda ids, *a: widths.append(ids.shape[1]) or features(ids, *a),
    )
    model.generate(torch.ones(1, 9, dtype=torch.long), max_new_tokens=4, **GREEDY)
    assert widths == [9, 1, 1, 1]


def test_sampling_draws_each_sequence_on_its_own() -> None:
    model, batch = lab_model(**HYMBA), padded(prompts(3))
    torch.manual_seed(0)
    asked = {"do_sample": True, "num_return_sequences": 4, "max_new_tokens": 8, "top_k": 0}
    made = model.generate(**batch, **asked, eos_token_id=None, pad_token_id=0)
    assert made.shape[0] == 12 and len({tuple(row.tolist()) for row in made[:4]}) > 1
    torch.manual_seed(0)
    again = model.generate(**batch, **asked, eos_token_id=None, pad_token_id=0, use_cache=False)
    assert torch.equal(made, again)


def test_a_row_that_ended_is_filled_up() -> None:
    model, batch = lab_model(**HYMBA), padded(prompts(6))
    width = batch["input_ids"].shape[1]
    free = model.generate(**batch, max_new_tokens=10, **GREEDY)[:, width:].tolist()
    eos = free[0][2]
    made = model.generate(**batch, max_new_tokens=10, **GREEDY | {"eos_token_id": eos})
    for row, whole in zip(made[:, width:].tolist(), free, strict=True):
        end = whole.index(eos) + 1 if eos in whole else 10
        assert row == (whole[:end] + [0] * 10)[: len(row)]


@pytest.mark.slow
@torch.no_grad()
def test_a_loop_of_ones_own() -> None:
    """The cache grows with the text and goes on with several tokens at once."""
    model, row = lab_model(**HYMBA), prompts(1)[0]
    out = model(row[None], use_cache=True)
    made = [int(out.logits[0, -1].argmax())]
    for _ in range(120):
        out = model(torch.tensor([made[-1:]]), cache=out.cache)
        made.append(int(out.logits[0, -1].argmax()))
    own = model.model.net.generate(row[None], max_new_tokens=121)
    assert made == own[0, len(row) :].tolist()
    more = model(torch.tensor([[1, 2, 3]]), cache=out.cache).logits
    whole = torch.cat([own, torch.tensor([[1, 2, 3]])], dim=1)
    whole = torch.cat([whole[:, :-4], whole[:, -3:]], dim=1)  # the newest token was not read yet
    torch.testing.assert_close(more, model(whole).logits[:, -3:], rtol=0, atol=1e-4)


@torch.no_grad()
def test_going_on_from_a_cache_with_rows_of_unequal_length() -> None:
    model, batch = lab_model(**HYMBA), padded(prompts(4))
    first = model.generate(
        **batch, max_new_tokens=3, return_dict_in_generate=True, use_cache=True, **GREEDY
    )
    new = torch.cat([first.sequences, torch.tensor([[1, 2]]).expand(4, -1)], dim=1)
    mask = torch.cat([batch["attention_mask"], torch.ones(4, 5, dtype=torch.long)], dim=1)
    made = model.generate(new, attention_mask=mask, cache=first.cache, max_new_tokens=6, **GREEDY)
    fresh = model.generate(new, attention_mask=mask, max_new_tokens=6, **GREEDY)
    assert torch.equal(made, fresh)


def test_training_asks_for_no_cache() -> None:
    model, ids = lab_model().train(), torch.tensor([[1, 2]])
    assert model(ids, use_cache=True).cache is None
    model.eval()
    assert model(ids).cache is None, "gradients are on"
    with torch.no_grad():
        assert model(ids, labels=ids).cache is None
        assert model(ids, use_cache=False).cache is None
        model.config.use_cache = False
        assert model(ids).cache is None


@torch.no_grad()
def test_the_usual_loop_says_nothing_of_a_cache() -> None:
    """As with every model of transformers; the second pass read one token without its context."""
    model, row = lab_model(**HYMBA), prompts(1)[0]
    out = model(row[None])
    new = torch.tensor([[3]])
    logits = model(new, past_key_values=out.past_key_values).logits[0, -1]
    whole = model(torch.cat([row[None], new], dim=1), use_cache=False).logits[0, -1]
    torch.testing.assert_close(logits, whole, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_cache_holds_one_document_a_row() -> None:
    model, ids = lab_model(**HYMBA), torch.tensor([[1, 2, 3, 4]])
    places = torch.tensor([[0, 1, 0, 1]])
    assert model(ids, position_ids=places).cache is None
    with pytest.raises(UserError, match="a cache holds one document a row"):
        model(ids, position_ids=places, use_cache=True)
    padded_in_front = torch.tensor([[0, 1, 1, 1]])
    counted = torch.tensor([[0, 0, 1, 2]])
    out = model(ids, position_ids=counted, attention_mask=padded_in_front)
    assert out.cache is not None and out.cache.seen == 4


def test_streaming_and_pipelines(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path)
    model, tokenizer = load(folder), AutoTokenizer.from_pretrained(folder)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    inputs = tokenizer(["Once"], return_tensors="pt")
    made = model.generate(**inputs, max_new_tokens=8, streamer=streamer, do_sample=False)
    text = tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert "".join(streamer) == text != ""
    ask = pipeline("text-generation", model=model, tokenizer=tokenizer)
    asked = {"max_new_tokens": 8, "do_sample": False}
    texts = ["Once", "And then they"]
    both = ask(texts, batch_size=2, **asked)
    alone = [ask(one, **asked) for one in texts]
    assert both == alone and both[0][0]["generated_text"] == "Once" + text
    said = ask([{"role": "user", "content": "Hi"}], **asked)
    assert said[0]["generated_text"][-1]["role"] == "assistant"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "longer than the positions": ({"max_new_tokens": 120}, "are 129; the model's .* made for 128"),
    "another cache": ({"cache_implementation": "static"}, "cache_implementation = 'static'"),
    "a row of padding": (
        {"attention_mask": torch.tensor([[0] * 9, [1] * 9])},
        "rows that are all padding",
    ),
    "chunks of padded rows": (
        {"attention_mask": torch.tensor([[0] * 7 + [1] * 2, [1] * 9]), "prefill_chunk_size": 6},
        "rows that are all padding.* prefill_chunk_size",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_that_cannot_be(case: str) -> None:
    asked, message = REFUSED[case]
    ids = torch.ones(2, 9, dtype=torch.long)
    with pytest.raises(UserError, match=message):
        load(FOLDER).generate(ids, **GREEDY | {"max_new_tokens": 4} | asked)


def test_a_prompt_may_be_read_in_chunks() -> None:
    model, ids = lab_model(**HYMBA), torch.randint(1, VOCAB, (2, 17))
    whole = model.generate(ids, max_new_tokens=5, **GREEDY)
    for size in (1, 4, 16):
        made = model.generate(ids, max_new_tokens=5, prefill_chunk_size=size, **GREEDY)
        assert torch.equal(made, whole)


def test_the_tokenizer_of_the_tests_reads_back_what_it_writes() -> None:
    tokenizer = tiny_tokenizer()
    assert len(tokenizer) == 97
    assert tokenizer.decode(tokenizer("a Bc!").input_ids, skip_special_tokens=True) == "a Bc!"
