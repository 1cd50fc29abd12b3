"""Data of fine-tuning: equal records in every format, and what of them is learned."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_folders import TEMPLATE, tiny_tokenizer
from tuning import CHATS, PAIRS, lines, stage_of

from hymba_lab.checkpoints.codec import TokenizerFile
from hymba_lab.config.tuning import Dpo, Sft
from hymba_lab.dialogue.template import template_of
from hymba_lab.finetune.callbacks import Logs
from hymba_lab.finetune.encode import IGNORED, Encoder, Labelled, PairIds
from hymba_lab.finetune.examples import examples
from hymba_lab.finetune.plan import Plan, plan
from hymba_lab.finetune.prepare import Prepared, prepare
from hymba_lab.finetune.run import quiet
from hymba_lab.finetune.start import Start
from hymba_lab.finetune.template import PLAIN, TrainedTemplate, template_for
from hymba_lab.finetune.trainers import trainer_of

UNMARKED = TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")


def encoder(source: str = TEMPLATE, **options: Any) -> Encoder:
    tokenizer = tiny_tokenizer()
    return Encoder(tokenizer, TrainedTemplate(tokenizer, source, "t"), 512, **options)


def rows(path: Path, source: str = TEMPLATE, as_messages: bool = False) -> list[Labelled]:
    return list(encoder(source).labelled(examples([str(path)], None, as_messages)))


def learned(row: Labelled) -> str:
    ids = [label for label in row.labels if label != IGNORED]
    return str(tiny_tokenizer().decode(ids))


def test_every_format_of_conversations_is_the_same(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    expected = rows(lines(tmp_path / "a.jsonl", CHATS))
    (tmp_path / "list.json").write_text(json.dumps(CHATS))
    lmflow = [
        {"conversation_id": n, "system": chat["messages"][0]["content"], "tools": [],
         "messages": chat["messages"][1:]}
        for n, chat in enumerate(CHATS)
    ]  # fmt: skip
    (tmp_path / "lmflow.json").write_text(json.dumps({"type": "conversation", "instances": lmflow}))
    parquet.write_table(pyarrow.Table.from_pylist(CHATS), tmp_path / "b.parquet")
    for name in ("list.json", "lmflow.json", "b.parquet"):
        assert rows(tmp_path / name) == expected
    folder = list(examples([str(tmp_path)], None, False))
    assert len(folder) == 4 * len(CHATS), "a folder is all of its files"


def test_every_format_of_answers_is_the_same(tmp_path: Path) -> None:
    asked = [(f"say {n}", f"{n} it is") for n in range(5)]
    chats = [
        [{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in asked
    ]
    expected = rows(lines(tmp_path / "m.jsonl", [{"messages": chat} for chat in chats]))
    alpaca = [{"instruction": q, "input": "", "output": a} for q, a in asked]
    (tmp_path / "alpaca.json").write_text(json.dumps(alpaca))
    (tmp_path / "lmflow.json").write_text(
        json.dumps(
            {"type": "text2text", "instances": [{"input": q, "output": a} for q, a in asked]}
        )
    )
    given = [{"prompt": q, "completion": a} for q, a in asked]
    turns = [{"prompt": chat[:1], "completion": chat[1:]} for chat in chats]
    assert rows(tmp_path / "alpaca.json") == expected
    assert rows(tmp_path / "lmflow.json", as_messages=True) == expected
    assert rows(lines(tmp_path / "p.jsonl", given), as_messages=True) == expected
    assert rows(lines(tmp_path / "t.jsonl", turns)) == expected


def test_answers_are_learned_with_their_end_and_nothing_else(tmp_path: Path) -> None:
    for source in (TEMPLATE, UNMARKED, PLAIN):
        path = lines(tmp_path / "a.jsonl", CHATS)
        for row, chat in zip(rows(path, source), CHATS, strict=True):
            answers = [m["content"] for m in chat["messages"] if m["role"] == "assistant"]
            said = learned(row).replace("\n", "").replace(" ", "")
            assert said == "".join(answer + "</s>" for answer in answers)
            assert all(label in (IGNORED, i) for i, label in zip(*row, strict=True))
    assert rows(path, TEMPLATE) == rows(path, UNMARKED)


def test_a_prompt_of_turns_is_not_learned(tmp_path: Path) -> None:
    turns = CHATS[3]["messages"]
    record = {"prompt": turns[:4], "completion": turns[4:]}
    for source in (TEMPLATE, UNMARKED):
        [row] = rows(lines(tmp_path / "a.jsonl", [record]), source)
        assert learned(row) == turns[4]["content"] + "</s>"


def test_texts_and_completions_without_a_template(tmp_path: Path) -> None:
    [text] = rows(lines(tmp_path / "a.jsonl", [{"text": "a b c"}]))
    assert text.labels == text.ids and tiny_tokenizer().decode(text.ids) == "<s>a b c</s>"
    [row] = rows(lines(tmp_path / "b.jsonl", [{"prompt": "a b", "completion": " c"}]))
    assert row.ids == text.ids and learned(row) == " c</s>"
    [whole] = encoder(everything=True).labelled(examples([str(tmp_path / "b.jsonl")], None, False))
    assert whole.labels == whole.ids


def pairs(path: Path, as_messages: bool) -> list[PairIds]:
    return list(encoder().pairs(examples([str(path)], None, as_messages)))


def test_pairs_share_their_prompt(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", PAIRS)
    turned = pairs(path, True)
    for pair, record in zip(turned, PAIRS, strict=True):
        told = tiny_tokenizer().decode(pair.prompt + pair.chosen)
        assert told == f"<{record['prompt']}>{record['chosen']}</s>"
        assert tiny_tokenizer().decode(pair.rejected) == record["rejected"] + "</s>"
    for pair, record in zip(pairs(path, False), PAIRS, strict=True):
        assert tiny_tokenizer().decode(pair.prompt) == "<s>" + record["prompt"]
        assert tiny_tokenizer().decode(pair.chosen) == record["chosen"] + "</s>"
    user = [{"role": "user", "content": "q"}]
    better, worse = ([*user, {"role": "assistant", "content": text}] for text in "ab")
    lmflow = {"chosen": {"messages": better}, "rejected": {"messages": worse}}
    split = {"prompt": user, "chosen": better[1:], "rejected": worse[1:]}
    (tmp_path / "l.json").write_text(
        json.dumps({"type": "paired_conversation", "instances": [lmflow]})
    )
    expected = pairs(lines(tmp_path / "s.jsonl", [split]), False)
    assert pairs(tmp_path / "l.json", False) == expected
    for prompt in ("q", user):  # beside whole conversations, as UltraFeedback has it
        both = {"prompt": prompt, "chosen": better, "rejected": worse}
        assert pairs(lines(tmp_path / "b.jsonl", [both]), False) == expected


@pytest.mark.parametrize("given", [None, "plain"])
def test_chat_asks_with_what_was_trained(given: str | None, tmp_path: Path) -> None:
    """The prompt of `hymba-lab chat` is the beginning of a row of training, id by id."""
    start = Start(Path(stage_of("sft", tmp_path).model))
    template = template_for(start.tokenizer, given, "the model")
    [row] = Encoder(start.tokenizer, template, None).labelled(
        examples([str(lines(tmp_path / "a.jsonl", CHATS[:1]))], None, False)
    )
    start.tokenizer.save_pretrained(tmp_path / "saved")
    chat = template_of(tmp_path / "saved", None)
    codec = TokenizerFile(tmp_path / "saved/tokenizer.json", [2])
    asked = codec.encode(chat.render(CHATS[0]["messages"][:2]), special=False)
    assert row.ids[: len(asked)] == asked
    assert all(label == IGNORED for label in row.labels[: len(asked)])
    assert row.labels[len(asked)] != IGNORED


def parts(stage: Sft | Dpo, place: Path) -> tuple[Any, Plan, Prepared, Any]:
    """Model, plan, rows and trainer of a stage, as it would begin."""
    quiet()
    start = Start(Path(stage.model))
    planned, data = plan(stage, start)
    model = start.load("fp32")
    trainer = trainer_of(
        stage, model, start.tokenizer, data, planned, checkpoints=place / "c",
        logs=Logs(None, print), on_cpu=True,
    )  # fmt: skip
    return model, planned, data, trainer


def kept_by_a_step(stage: Sft | Dpo, place: Path) -> tuple[int, int, int]:
    """Bytes of activations as planned and as autograd keeps them, and the number of blocks."""
    model, planned, data, trainer = parts(stage, place)
    if stage.recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    whole = [row for row in data.train if len(row["input_ids"]) == 128][: stage.micro_rows]
    batch = trainer.data_collator(whole)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.compute_loss(model.train(), batch)
    return planned.activations, sum(kept.values()), len(model.model.net.plan)


def test_the_activations_of_the_plan_are_those_of_a_step(tmp_path: Path) -> None:
    """Counted by hooks on what autograd keeps; recomputed, one block's insides come on top."""
    planned, kept = {}, {}
    for recompute in (False, True):
        stage = stage_of("sft", tmp_path, packing="wrapped", seq_len=128, recompute=recompute,
                         loss_on="everything")  # fmt: skip
        planned[recompute], kept[recompute], n_blocks = kept_by_a_step(stage, tmp_path)
    insides = (kept[False] - kept[True]) / n_blocks
    assert 0.6 < kept[False] / planned[False] < 1.2
    assert 0.6 < (kept[True] + insides) / planned[True] < 1.2
    assert planned[True] < planned[False]


def test_a_packed_batch_has_the_loss_of_its_examples_alone(tmp_path: Path) -> None:
    stage = stage_of("sft", tmp_path, packing="bfd", seq_len=128, micro_rows=4)
    model, _, data, trainer = parts(stage, tmp_path)
    assert data.n_rows < data.n_examples == 40
    batch = next(iter(trainer.get_train_dataloader()))
    packed = float(trainer.compute_loss(model.eval(), dict(batch)).detach())

    from torch.nn.functional import cross_entropy

    ids, labels = batch["input_ids"][0], batch["labels"][0]
    starts = [*torch.nonzero(batch["position_ids"][0] == 0).flatten().tolist(), len(ids)]
    alone = Start(Path(stage.model)).load("fp32").eval()
    total, n = 0.0, 0
    for a, b in pairwise(starts):
        with torch.no_grad():
            logits = alone(ids[None, a:b]).logits[0]
        total += float(cross_entropy(logits[:-1], labels[a + 1 : b], reduction="sum"))
        n += int((labels[a + 1 : b] != IGNORED).sum())
    assert len(starts) > 8
    assert packed == pytest.approx(total / n, abs=1e-5)


def test_the_held_out_part_is_a_function_of_the_seed(tmp_path: Path) -> None:
    stage = stage_of("sft", tmp_path)
    lines(tmp_path / "chats.jsonl", CHATS)
    asked = stage.model_copy(update={"data": stage.data.model_copy(update={"val_fraction": 0.3})})
    one, two = (prepare(asked, Start(tmp_path / "model")) for _ in range(2))
    assert one.val["input_ids"] == two.val["input_ids"] and len(one.val) == 3
    both = [*one.train["input_ids"], *one.val["input_ids"]]
    assert len({tuple(row) for row in both}) == len(CHATS)
