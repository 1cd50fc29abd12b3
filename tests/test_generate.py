"""Generation: batches equal their rows, greedy equals the forward pass, sampling keeps its word."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cache import HYMBA, VOCAB, model_of, tokens_of
from test_parity import FOLDER, N_PROMPT
from torch import Tensor

import hymba_lab
from hymba_lab.checkpoints.load import load
from hymba_lab.checkpoints.weights import save_weights
from hymba_lab.commands import generate as command
from hymba_lab.commands.generate import main
from hymba_lab.config import load_config
from hymba_lab.data.source import build_sources
from hymba_lab.model import LanguageModel, build_model


def padded(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """Rows in one (B, T) with -1 as padding, and their mask."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), -1)
    for row, tokens in zip(ids, rows, strict=True):
        place = slice(longest - len(tokens), None) if side == "left" else slice(len(tokens))
        row[place] = tokens
    return ids, (ids >= 0).long()


@torch.no_grad()
def by_hand(model: LanguageModel, tokens: Tensor, n_new: int) -> Tensor:
    for _ in range(n_new):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    return tokens


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [1, 3, 512])
@pytest.mark.parametrize("window", [1, 3, 50])
def test_greedy_equals_the_forward_pass(window: int, chunk_size: int) -> None:
    model = model_of(**HYMBA | {"placement": {"name": "first_middle_last", "window": window}})
    tokens = tokens_of(2, 8)
    made = model.generate(tokens, max_new_tokens=15, chunk_size=chunk_size)
    assert torch.equal(made, by_hand(model, tokens, 15))


@pytest.fixture(scope="module")
def prompts_alone() -> list[tuple[Tensor, list[int]]]:
    """64 prompts of random lengths, and what each alone is continued with."""
    model, random = model_of(**HYMBA), torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 24, (64,), generator=random).tolist()
    rows = [torch.randint(0, VOCAB, (n,), generator=random) for n in lengths]
    alone = [model.generate(row[None], max_new_tokens=12)[0, len(row) :] for row in rows]
    return [(row, made.tolist()) for row, made in zip(rows, alone, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("chunk_size", [5, 512])
def test_64_prompts_equal_each_alone(
    side: str, chunk_size: int, prompts_alone: list[tuple[Tensor, list[int]]]
) -> None:
    model = model_of(**HYMBA)
    ids, mask = padded([row for row, _ in prompts_alone], side)
    made = model.generate(ids, mask, max_new_tokens=12, chunk_size=chunk_size)
    assert torch.equal(made[:, : ids.shape[1]], ids), "the prompt comes back as given"
    assert made[:, ids.shape[1] :].tolist() == [alone for _, alone in prompts_alone]


@torch.no_grad()
def test_one_row_in_bfloat16_leaves_the_settings_alone() -> None:
    """One row takes another product than several: same numbers, and oneDNN is on again after."""
    model, tokens = model_of(**HYMBA).bfloat16(), tokens_of(1, 9)
    before = torch.backends.mkldnn.enabled
    steps = model.stream(tokens, max_new_tokens=8)
    made = []
    for step in steps:
        assert torch.backends.mkldnn.enabled == before
        made.append(step)
    exact = model_of(**HYMBA)
    exact.load_state_dict(model.state_dict())
    logits = exact(torch.cat([tokens, torch.stack(made, 1)], 1))[:, 8:-1]
    chosen = logits.gather(-1, torch.stack(made, 1)[..., None])[..., 0]
    assert (logits.amax(-1) - chosen).max() < 0.1, "as good as the best but for rounding"


def test_the_released_continuation_through_the_cache() -> None:
    from safetensors.torch import load_file

    expected = load_file(FOLDER / "expected.safetensors")["greedy_ids"]
    model = hymba_lab.load_pretrained(FOLDER)
    for chunk_size in (2, 512):
        made = model.generate(
            expected[:, :N_PROMPT],
            max_new_tokens=expected.shape[1] - N_PROMPT,
            chunk_size=chunk_size,
        )
        assert made.tolist() == expected.tolist()


def test_a_row_ends_with_eos_and_others_go_on() -> None:
    model, tokens = model_of(**HYMBA), tokens_of(6, 5)
    free = model.generate(tokens, max_new_tokens=10)[:, 5:]
    eos = int(free[0, 2])
    stopped = model.generate(tokens, max_new_tokens=10, eos=eos)[:, 5:]
    for row, whole in zip(stopped.tolist(), free.tolist(), strict=True):
        end = whole.index(eos) + 1 if eos in whole else 10
        assert row == (whole[:end] + [eos] * 10)[: len(row)]
    last = max((row.index(eos) if eos in row else 9) for row in free.tolist())
    assert stopped.shape[1] == last + 1


def test_a_stream_is_the_same_tokens_one_by_one() -> None:
    model, tokens = model_of(**HYMBA), tokens_of(2, 5)
    steps = list(model.stream(tokens, max_new_tokens=6))
    assert torch.equal(torch.stack(steps, 1), model.generate(tokens, max_new_tokens=6)[:, 5:])


# --- sampling


def draws(model: LanguageModel, n_rows: int = 4000, **options: Any) -> Tensor:
    """First tokens drawn after one prompt."""
    prompt = tokens_of(1, 4).expand(n_rows, -1)
    return model.generate(prompt, max_new_tokens=1, seed=5, **options)[:, -1]


@torch.no_grad()
def probabilities(model: LanguageModel, temperature: float) -> Tensor:
    return (model(tokens_of(1, 4))[0, -1] / temperature).softmax(-1)


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_tokens_are_drawn_from_the_softmax(temperature: float) -> None:
    model = model_of(n_layers=1)
    share = draws(model, temperature=temperature).bincount(minlength=VOCAB) / 4000
    torch.testing.assert_close(share, probabilities(model, temperature), rtol=0, atol=0.03)


def test_top_k_and_top_p_cut_the_tail() -> None:
    model = model_of(n_layers=1)
    p, order = probabilities(model, 1.5).sort(descending=True)
    top = set(order[:3].tolist())
    assert set(draws(model, temperature=1.5, top_k=3).tolist()) == top
    share = float(p[:3].sum()) - 1e-3  # three tokens are the fewest that hold it
    assert set(draws(model, temperature=1.5, top_p=share).tolist()) == top
    assert len(set(draws(model, temperature=1.5, top_p=1.0).tolist())) > 3
    assert set(draws(model, temperature=1.5, top_p=1e-6).tolist()) == {int(order[0])}


def test_a_seed_draws_the_same_tokens() -> None:
    model, tokens = model_of(n_layers=1), tokens_of(3, 4)
    first, again, other = (
        model.generate(tokens, max_new_tokens=20, temperature=1.0, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_generation_leaves_the_global_random_state_alone() -> None:
    model = model_of(n_layers=1)
    before = torch.get_rng_state()
    model.generate(tokens_of(1, 3), max_new_tokens=2, temperature=1.0)
    assert torch.equal(torch.get_rng_state(), before)


# --- the command line


@pytest.fixture
def run_folder(tiny: Path, tmp_path: Path) -> Path:
    """A run on a recall task (16 ids) and bytes, in this order."""
    source = tmp_path / "text.txt"
    source.write_text("some text to train on. " * 50)
    sources = {
        "recall": {"name": "mqar", "rows": 1, "vocab": 16, "n_pairs": [1], "n_val": 1},
        "text": {"name": "files", "rows": 1, "paths": [str(source)]},
    }
    config = load_config(tiny, [f"data={json.dumps(sources)}"])
    torch.manual_seed(0)
    model = build_model(config.model, 16 + 256)
    facts = {"config": config.resolved(), "vocab": 16 + 256}
    save_weights(tmp_path / "weights.safetensors", model.state_dict(), facts)
    return tmp_path


def test_a_run_continues_text_with_its_own_ids(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main([str(run_folder), "--prompt", "som\u00e9", "--max-new-tokens", "9", "--no-eos"]) == 0
    )
    shown = capsys.readouterr().out
    assert shown.startswith("som\u00e9") and len(shown) > 5
    ids = " ".join(str(16 + byte) for byte in "som\u00e9".encode())
    main([str(run_folder / "weights.safetensors"), "--ids", ids, "--max-new-tokens", "9"])
    made = json.loads(capsys.readouterr().out)
    assert len(made) == 9
    main([str(run_folder), "--ids", ids, "--ids", "17 18", "--max-new-tokens", "9"])
    batch = capsys.readouterr().out.splitlines()
    assert json.loads(batch[0]) == made and len(batch) == 2


def test_a_run_with_bpe_continues_text_and_stops_at_its_end(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run on BPE text behind another source: the tokenizer is the one made for its data."""
    text = tmp_path / "text.txt"
    text.write_text("some text to train on, and some more of it. " * 200)
    sources = {
        "recall": {"name": "mqar", "rows": 1, "vocab": 16, "n_pairs": [1], "n_val": 1},
        "text": {
            "name": "files", "rows": 1, "paths": [str(text)], "tokenizer": "bpe", "n_bpe": 270,
        },
    }  # fmt: skip
    config = load_config(tiny, [f"data={json.dumps(sources)}"])
    vocab = build_sources(config.data, config.training.seq_len).vocab
    torch.manual_seed(0)
    model = build_model(config.model, vocab)
    facts = {"config": config.resolved(), "vocab": vocab}
    save_weights(tmp_path / "weights.safetensors", model.state_dict(), facts)
    _, codec = load(tmp_path, None, texts=True)
    assert codec is not None
    ids = codec.encode("some more text")
    assert 0 < len(ids) < len("some more text") and codec.decode(ids) == "some more text"
    assert codec.eos == [16] and all(16 < i < vocab for i in ids)
    arguments = [str(tmp_path), "--max-new-tokens", "6"]
    assert main([*arguments, "--prompt", "some more text", "--prompt", "of", "--no-eos"]) == 0
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first.startswith("some more text") and second.startswith("of")


def test_a_released_folder_uses_its_tokenizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = {f"w{i}": i for i in range(97)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.Fuse()
    hymba_lab.save_pretrained(hymba_lab.load_pretrained(FOLDER), tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    arguments = [str(tmp_path), "--max-new-tokens", "5"]
    main([*arguments, "--ids", "5 6 7"])
    made = json.loads(capsys.readouterr().out)
    main([*arguments, "--prompt", "w5 w6 w7", "--prompt", "w9"])
    first, second = capsys.readouterr().out.splitlines()
    assert first == "w5 w6 w7" + "".join(f"w{i}" for i in made)
    assert second.startswith("w9w")
    main([*arguments, "--prompt", "w5 w6 w7"])
    assert capsys.readouterr().out.strip() == first

    # the end of a text is the folder's, with a tokenizer or without
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "eos_token_id": made[2]}))
    main([*arguments, "--ids", "5 6 7"])
    assert json.loads(capsys.readouterr().out) == made[: made.index(made[2])]
    main([*arguments, "--ids", "5 6 7", "--no-eos"])
    assert json.loads(capsys.readouterr().out) == made


class Stripped:
    """Words with a space before them, of which a decoder takes a text's first away (Llama's)."""

    eos = [0]  # noqa: RUF012

    def decode(self, ids: list[int]) -> str:
        return "".join(f" w{i}" for i in ids).removeprefix(" ")


def test_a_first_word_keeps_its_space_behind_the_prompt(
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = partial(command._whole, "w5 w6", [5, 6], Stripped(), [0])
    command._print_live(whole, iter([[7], [8], [0], [0]]))
    assert capsys.readouterr().out == "w5 w6 w7 w8\n"
    assert whole([]) == "w5 w6"


@pytest.mark.slow
def test_the_command_tells_what_is_wrong_without_a_traceback() -> None:
    command = [sys.executable, "-m", "hymba_lab.generate", str(FOLDER), "--prompt", "hello"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no tokenizer.json" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_package_itself_imports_no_torch() -> None:
    code = "import sys, hymba_lab; assert 'torch' not in sys.modules; hymba_lab.load_pretrained"
    subprocess.run([sys.executable, "-c", code], check=True)
