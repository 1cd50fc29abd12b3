"""What users get wrong when they fine-tune, and what the one message about it must contain."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuning import PAIRS

Broken = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """One fault: `values` are keys of the stage's file, `broken` is done to the folder before."""

    id: str
    said: str
    values: dict[str, Any] = field(default_factory=dict)
    broken: Broken = lambda place: None
    kind: str = "sft"
    words: tuple[str, ...] = ()


def wrote(name: str, content: str | bytes) -> Broken:
    """Write a file into the folder."""

    def write(place: Path) -> None:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def data(content: str | bytes, name: str = "own.jsonl", **keys: Any) -> dict[str, Any]:
    """The keys of a case whose data are one file of this content."""
    return {"values": {"data": {"paths": [name], **keys}}, "broken": wrote(name, content)}


def chat(*messages: Any) -> dict[str, Any]:
    return data(json.dumps({"messages": list(messages)}))


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def edited(name: str, change: Callable[[Any], Any]) -> Broken:
    """Change a JSON file of the model's folder."""

    def edit(place: Path) -> None:
        path = place / "model" / name
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return edit


def template(source: str) -> dict[str, Any]:
    return {"values": {"template": "t.jinja"}, "broken": wrote("t.jinja", source)}


def _no_tensor(place: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = place / "model/model.safetensors"
    weights = load_file(file)
    del weights["model.final_layernorm.weight"]
    save_file(weights, file, {"format": "pt"})


def _adapter(place: Path, rank_of: int = 3) -> None:
    """An adapter for a map of other shapes."""
    import torch
    from safetensors.torch import save_file

    folder = place / "adapter"
    folder.mkdir()
    name = "base_model.model.model.net.blocks.0.mixer.ssm.x"
    weights = {f"{name}.lora_A.weight": torch.zeros(4, rank_of),
               f"{name}.lora_B.weight": torch.zeros(rank_of, 4)}  # fmt: skip
    save_file(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "target_modules": ["x"],
                    "task_type": "CAUSAL_LM", "base_model_name_or_path": str(place / "model")})
    )  # fmt: skip


def _both(*steps: Broken) -> Broken:
    def broken(place: Path) -> None:
        for step in steps:
            step(place)

    return broken


FORGETS = (
    "{% for m in messages %}{% if loop.last or m.role == 'user' %}{{ m.content }}{% endif %}"
    "{% endfor %}"
)
SAYS, HEARS = turn("assistant", "a"), turn("user", "u")
MODEL = [
    Case("no such folder", "model: there is no folder", {"model": "nowhere"}),
    Case("no checkpoint", "no config.json, so no checkpoint", {"model": "."}),
    Case(
        "no tokenizer",
        "no tokenizer.json; copy it",
        broken=lambda place: (place / "model/tokenizer.json").unlink(),
    ),
    Case(
        "a broken tokenizer",
        "its tokenizer cannot be read",
        broken=wrote("model/tokenizer.json", "{"),
    ),
    Case(
        "a larger tokenizer",
        "ids, the model 20: they do not belong together",
        broken=edited("config.json", lambda c: c | {"vocab_size": 20}),
    ),
    Case(
        "no end of text",
        "the tokenizer has no eos_token",
        broken=edited(
            "tokenizer_config.json", lambda c: {k: v for k, v in c.items() if k != "eos_token"}
        ),
    ),
    Case(
        "another kind of model",
        "model_type is 'gpt2'; only hymba and hymba_lab",
        broken=edited("config.json", lambda c: c | {"model_type": "gpt2"}),
    ),
    Case(
        "a broken config.json",
        "config.json: not a JSON file",
        broken=wrote("model/config.json", "{"),
    ),
    Case("a missing tensor", "missing: model.final_layernorm.weight", broken=_no_tensor),
    Case(
        "an adapter alone",
        "an adapter without its base model; merge it first",
        {"model": "adapter"},
        _adapter,
    ),
]
FILE = [
    Case("an unknown key", "no key 'packin'; choose one of", {"packin": "bfd"}),
    Case(
        "an unknown method",
        "no component 'qlora'; choose one of full, lora, dora, lisa",
        {"method": {"name": "qlora"}},
    ),
    Case(
        "an unknown packing",
        "packing: input should be 'bfd' or 'wrapped'; got 'best'",
        {"packing": "best"},
    ),
    Case("lr is text", "lr: input should be a valid number", {"lr": "low"}),
    Case("no rows", "rows: is missing", {"rows": None}),
    Case("rows of parts", "micro_rows: 3 does not divide rows, 4", {"micro_rows": 3}),
    Case("beta for sft", "no key 'beta'", {"beta": 0.1}),
    Case(
        "an unknown target",
        "no linear map 'xx'; choose one of",
        {"method": {"name": "lora", "targets": ["xx"]}},
    ),
    Case(
        "too large an adapter",
        "at most 1% are allowed: lower r (64)",
        {"method": {"name": "dora", "r": 64, "at_most": 0.01}},
    ),
    Case(
        "too many layers",
        "99 blocks at a time; the model has",
        {"method": {"name": "lisa", "n_layers": 99}},
    ),
    Case(
        "a context too long",
        "seq_len: 4096 tokens; the model's positions are made for",
        {"seq_len": 4096},
    ),
    Case("no file", "there is no such file", words=("sft", "nothing.yaml")),
    Case("no shipped stage", "neither a file nor one of the shipped", words=("sft", "sft9")),
]
DATA = [
    Case("no data", "nothing.jsonl: no such file", {"data": {"paths": ["nothing.jsonl"]}}),
    Case("an unknown ending", "unknown kind of file; give .json", **data("a", "own.csv")),
    Case("an empty file", "own.jsonl: holds no example", **data("\n\n")),
    Case("an empty json file", "own.json: holds no example", **data("", "own.json")),
    Case("a broken line", "own.jsonl:2: not JSON", **data('{"text": "a"}\n{"text": ')),
    Case("a broken file", "own.json:2:1: not JSON", **data('[{"text": "a"},\n', "own.json")),
    Case(
        "lines called json",
        "a file with a record a line is called .jsonl",
        **data('{"text": "a"}\n{"text": "b"}\n', "own.json"),
    ),
    Case("a damaged table", "own.parquet: not a parquet file", **data(b"PAR1PAR1", "own.parquet")),
    Case("not UTF-8", "byte 10 is not UTF-8", **data(b'{"text": "\xff"}')),
    Case("no record", "own.jsonl:1: '3' is no record", **data("3")),
    Case("unknown keys", "are those of no known format", **data('{"question": "a"}')),
    Case(
        "a key in some records",
        "own.jsonl:2: no key 'text', which text needs; it has 'txt'",
        **data('{"text": "a"}\n{"txt": "b"}'),
    ),
    Case(
        "an unknown format",
        "data.format: input should be",
        {"data": {"paths": ["x"], "format": "y"}},
    ),
    Case(
        "an unknown type of LMFlow",
        "no type 'text_pair'; choose one of",
        **data('{"type": "text_pair", "instances": [{"text": "a"}]}', "own.json"),
    ),
    Case("no list of LMFlow", 'nor {"type": ..., "instances": [...]}', **data("{}", "own.json")),
    Case(
        "an empty answer",
        "messages[1]: the assistant's turn is empty",
        **chat(HEARS, turn("assistant", " ")),
    ),
    Case("no answer", "no turn of the assistant", **chat(HEARS)),
    Case(
        "an unknown role",
        "messages[0]: no role 'human'; choose one of",
        **chat(turn("human", "u"), SAYS),
    ),
    Case(
        "content of parts",
        "the content of a turn is text; got list",
        **chat(turn("user", [1]), SAYS),
    ),
    Case("no messages", "'messages' is no list", **data('{"messages": []}')),
    Case("a number as text", "'text' is '3', not text", **data('{"text": 3}')),
    Case(
        "an empty completion", "'completion' is empty", **data('{"prompt": "a", "completion": ""}')
    ),
    Case("too long", "tokens, seq_len allows 8; raise it, or set data.too_long", {"seq_len": 8}),
    Case(
        "all held out",
        "are held out: nothing is left to train on",
        **data('{"text": "a"}', val_fraction=0.5),
    ),
    Case(
        "pairs for sft",
        "a preference pair; those are for DPO: `hymba-lab finetune dpo`",
        {"data": {"paths": ["pairs.jsonl"]}},
    ),
    Case(
        "chats for dpo",
        "DPO needs prompt, chosen and rejected",
        {"data": {"paths": ["chats.jsonl"]}},
        kind="dpo",
    ),
    Case(
        "equal answers",
        "own.jsonl:2: chosen and rejected are equal",
        **data(json.dumps(PAIRS[0]) + '\n{"prompt": "a", "chosen": "b", "rejected": "b"}'),
        kind="dpo",
    ),
    Case(
        "a pair without prompt",
        "prompt, chosen or rejected is empty",
        **data(json.dumps({"chosen": [HEARS], "rejected": [HEARS, SAYS]})),
        kind="dpo",
    ),
]
TEMPLATE = [
    Case(
        "no template",
        "the model has no chat template; set template to plain",
        broken=lambda place: (place / "model/chat_template.jinja").unlink(),
    ),
    Case("no file of a template", "t.jinja: cannot be read", {"template": "t.jinja"}),
    Case("a broken template", "does not take this conversation", **template("{% for %}")),
    Case(
        "a template that refuses",
        "no system, please",
        **template("{{ raise_exception('no system, please') }}"),
    ),
    Case(
        "a template that changes what went before",
        "the template changes turns that went before",
        **template(FORGETS),
    ),
    Case(
        "a mask that hides everything",
        "no token is learned: all labels are hidden",
        **template("{% generation %}{% endgeneration %}{{ messages[0].content }}"),
    ),
]
PLACE = [
    Case(
        "a folder of something else",
        "holds files and no finetune.json",
        broken=wrote("out/a.txt", "a"),
    ),
    Case("a file as folder", "is a file; name a folder", broken=wrote("out", "a")),
    Case(
        "another stage",
        "another stage stands there (it differs in asked,",
        broken=wrote("out/finetune.json", '{"asked": {"asked": 1, "lr": 2}, "result": {}}'),
    ),
    Case("a torn record", "finetune.json: cannot be read", broken=wrote("out/finetune.json", "{")),
    Case(
        "export what is no run",
        "no weights.safetensors, so no run of the lab",
        words=("export", "model", "--out", "out"),
    ),
    Case(
        "a run of the lab",
        "a run of the lab; write it as a folder first",
        {"model": "run"},
        wrote("run/weights.safetensors", ""),
    ),
    Case(
        "weights cut short",
        "not a whole safetensors file",
        broken=lambda place: os.truncate(place / "model/model.safetensors", 1000),
    ),
    Case(
        "an adapter cut short",
        "does not fit",
        broken=_both(
            _adapter, lambda place: os.truncate(place / "adapter/adapter_model.safetensors", 100)
        ),
        words=("merge", "adapter", "--out", "out"),
    ),
    Case(
        "a stage inside of its model",
        "name a folder outside with --out",
        words=("sft", "stage.yaml", "--out", "model/own"),
    ),
    Case("merge into nothing", "name the folder to write", words=("merge", "model")),
    Case(
        "merge what is no adapter",
        "no adapter_config.json, so no adapter",
        words=("merge", "model", "--out", "out"),
    ),
    Case(
        "an adapter for other shapes",
        "does not fit",
        broken=_adapter,
        words=("merge", "adapter", "--out", "out"),
    ),
    Case(
        "an adapter whose base is gone",
        "no config.json",
        words=("merge", "adapter", "--out", "out"),
        broken=_both(_adapter, lambda place: (place / "model").rename(place / "moved")),
    ),
]
CASES = [*MODEL, *FILE, *DATA, *TEMPLATE, *PLACE]
