"""The standard library's documentation as text, questions about it, and tasks to check answers by.

    python story/data.py FOLDER

writes `text/` (to pretrain on), `sft1.jsonl`, `sft2.jsonl`, `dpo.jsonl` (to tune on) and `tasks/`
(for `hymba-lab evaluate`). Everything follows from the running Python; nothing is drawn by chance.
"""

import ast
import hashlib
import importlib
import inspect
import json
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hymba_lab.data.text import stdlib_files

COMPILED = ("builtins", "cmath", "itertools", "math", "sys", "time")  # without a source in Python
LEFT_OUT = {"idlelib", "lib2to3", "turtledemo", "encodings", "ensurepip", "msilib", "pydoc_data"}
N_ASKED = 150  # questions of a task at most
N_TUNED = 300  # facts in the data of SFT and DPO at most
N_CHOICES = 4
PARTS = ("tuned", "held")


class Entry(NamedTuple):
    """A documented function or class: its module, its name, how it is called, what is said."""

    module: str
    name: str
    call: str
    doc: str

    @property
    def place(self) -> float:
        """A number in [0, 1) that is the entry's own."""
        return int(_hash(f"{self.module}.{self.name}")[:13], 16) / 16**13


class Fact(NamedTuple):
    """What is asked: the module and the purpose of a name that only one module has."""

    module: str
    name: str
    purpose: str
    part: str
    """Of the tuned part questions are in the data of SFT and DPO; of the held part none is."""


def documents() -> tuple[list[str], list[Entry]]:
    """Return the documentation, a text per module and topic, and its entries."""
    texts, entries = [], []
    root = Path(sysconfig.get_paths()["stdlib"])
    pages = [*_sources(root), *map(_compiled, COMPILED)]
    for module, doc, found in pages:
        if not found and len(doc) < 200:
            continue
        said = "\n\n".join(f"{module}.{e.name}{e.call}\n{_indented(e.doc)}" for e in found)
        texts.append(f"{module}\n\n{doc}\n\n{said}\n")
        entries += [e for e in found if "." not in e.name]
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    return texts + [topics[name].strip() + "\n" for name in sorted(topics)], entries


def _sources(root: Path) -> Iterator[tuple[str, str, list[Entry]]]:
    for file in stdlib_files(root):
        parts = file.relative_to(root).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not parts or parts[0] in LEFT_OUT or any(part.startswith("_") for part in parts):
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue
        module = ".".join(parts)
        yield module, ast.get_docstring(tree) or "", list(_entries(module, tree.body))


def _entries(module: str, body: Sequence[ast.stmt], inside: str = "") -> Iterator[Entry]:
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        doc, name = ast.get_docstring(node), inside + node.name
        if doc:
            call = f"({ast.unparse(node.args)})" if isinstance(node, ast.FunctionDef) else ""
            yield Entry(module, name, call, doc)
        if isinstance(node, ast.ClassDef):
            yield from _entries(module, node.body, f"{name}.")


def _compiled(name: str) -> tuple[str, str, list[Entry]]:
    module = importlib.import_module(name)
    entries = []
    for member in sorted(vars(module)):
        thing = getattr(module, member)
        doc = inspect.getdoc(thing) if callable(thing) else None
        if doc and not member.startswith("_"):
            entries.append(Entry(name, member, getattr(thing, "__text_signature__", "") or "", doc))
    return name, inspect.getdoc(module) or "", entries


def facts(entries: Sequence[Entry]) -> list[Fact]:
    """Return what can be asked without a doubt about the answer."""
    names = Counter(e.name for e in entries)
    purposes = Counter(_purpose(e.doc) for e in entries)
    found = []
    for entry in sorted(entries, key=lambda e: e.place):
        purpose = _purpose(entry.doc)
        bad = entry.name.lower() in purpose.lower()  # would give the answer away
        bad |= purpose.endswith(":.")  # the sentence goes on in a list
        if names[entry.name] == purposes[purpose] == 1 and 20 <= len(purpose) <= 90 and not bad:
            part = "held" if int(_hash(entry.name), 16) % 3 == 0 else "tuned"
            found.append(Fact(entry.module, entry.name, purpose, part))
    return found


def _purpose(doc: str) -> str:
    """Return the first sentence of a documentation."""
    first = " ".join(doc.split("\n\n")[0].split())
    return re.split(r"(?<=[a-z)])\.(?:\s|$)", first)[0].rstrip(".") + "."


def which_module(fact: Fact, wording: int) -> str:
    """Return the question for a module; the answer is its name."""
    return (
        f"Which module has {fact.name}?",
        f"Where in the standard library is {fact.name}?",
        f"From which module do I import {fact.name}?",
    )[wording]


def what_for(fact: Fact) -> str:
    """Return the question for a purpose."""
    return f"What is {fact.module}.{fact.name} for?"


def others(fact: Fact, every: Sequence[Fact], n: int, *, module: bool) -> list[str]:
    """Return `n` wrong answers, always the same ones: modules as frequent as right ones are."""
    order = sorted(every, key=lambda other: _hash(f"{fact.name}/{other.name}"))
    said = dict.fromkeys(other.module if module else other.purpose for other in order)
    return [text for text in said if text != (fact.module if module else fact.purpose)][:n]


def sft1(known: Sequence[Fact]) -> Iterator[dict[str, Any]]:
    """What things are for, and what is for that."""
    for fact in known:
        yield _talk(what_for(fact), fact.purpose)
        yield _talk(f"What in {fact.module} is for this? {fact.purpose}", fact.name)


def sft2(known: Sequence[Fact]) -> Iterator[dict[str, Any]]:
    """Where things are, in one turn and in two."""
    for fact in known:
        yield _talk(which_module(fact, 0), fact.module)
        yield _talk(which_module(fact, 1), fact.module, "What is it for?", fact.purpose)


def dpo(known: Sequence[Fact]) -> Iterator[dict[str, Any]]:
    """The right module before a wrong one."""
    for fact in known:
        (wrong,) = others(fact, known, 1, module=True)
        for wording in (0, 2):
            question = which_module(fact, wording)
            yield {"prompt": question, "chosen": fact.module, "rejected": wrong}


def _talk(*turns: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": t} for i, t in enumerate(turns)]}


def questions(known: Sequence[Fact], everything: Sequence[Fact], kind: str) -> list[dict[str, Any]]:
    """Return the questions of a task, each with its choices."""
    asked = []
    for fact in known[:N_ASKED]:
        module = kind != "purpose"
        right = fact.module if module else fact.purpose
        wrong = others(fact, everything, N_CHOICES - 1, module=module)
        choices = sorted([right, *wrong], key=_hash)
        question = which_module(fact, 0) if module else what_for(fact)
        asked.append(
            {"question": question, "choices": choices, "answer": choices.index(right),
             "right": right}
        )  # fmt: skip
    return asked


TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "User: {{{{question}}}}\\nAssistant:"
"""
CHOOSE = """output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
SAY = """output_type: generate_until
doc_to_target: "{{right}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 16, do_sample: false}
filter_list:
  - {name: none, filter: [{function: remove_whitespace}, {function: take_first}]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


def write(folder: Path) -> None:
    """Write everything below a folder."""
    texts, entries = documents()
    every = facts(entries)
    tuned = [fact for fact in every if fact.part == "tuned"][:N_TUNED]
    _lines(folder / "text" / "documentation.jsonl", [{"text": text} for text in texts])
    for name, made in (("sft1", sft1(tuned)), ("sft2", sft2(tuned)), ("dpo", dpo(tuned))):
        _lines(folder / f"{name}.jsonl", list(made))
    tasks = folder / "tasks"
    for part in PARTS:
        known = tuned if part == "tuned" else [fact for fact in every if fact.part == part]
        for kind, form in (("module", CHOOSE), ("purpose", CHOOSE), ("say_module", SAY)):
            name = f"{kind}_{part}"
            data = folder.resolve() / "questions" / f"{name}.jsonl"
            _lines(data, questions(known, every, kind))
            tasks.mkdir(parents=True, exist_ok=True)
            head = TASK.format(name=name, data=data)
            (tasks / f"{name}.yaml").write_text(head + form, encoding="utf-8")
    size = sum(map(len, texts)) / 1e6
    print(f"{len(texts)} documents, {size:.2f} MB; {len(every)} facts, {len(tuned)} to tune on")


def _lines(path: Path, records: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    if not path.is_file() or path.read_text("utf-8") != text:  # an unchanged file keeps its age
        path.write_text(text, encoding="utf-8")


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
