"""A tiny experiment with stages: bytes, a few steps, tasks beside their data."""

import json
from pathlib import Path

from conftest import TINY
from sweeping import Lab

BASE = (
    TINY.replace("n_layers: 2", "n_layers: 1").replace(
        "  recall: {name: mqar, rows: 4, vocab: 16, n_pairs: [1, 2], n_val: 8}\n",
        "  text: {name: files, rows: 4, paths: [text.txt], n_val: 2}\n",
    )
    + """\
stages:
  - pretrain
  - sft: {data: {paths: [chats.jsonl]}, template: plain, seq_len: 64, lr: 1.0e-2, rows: 2,
      max_steps: 3, log_every: 1, checkpoint_every: 1, recompute: false}
  - evaluate: {suite: tasks, limit: 4}
"""
)
SWEEP = """\
question: Which fusion is better after tuning?
base: tiny.yaml
metric: {name: eval/digits/acc, goal: maximize}
also: [val/loss, sft/train/loss]
seeds: [0, 1]
axes:
  fusion:
    mean: {model.fusion: {name: mean}}
    gate: {model.fusion: {name: gate}}
"""
TASK = """\
task: digits
dataset_path: json
dataset_kwargs: {data_files: {test: digits.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "User: {{q}}\\nAssistant:"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


def lines(records: list[dict[str, object]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def staged_lab(folder: Path, sweep: str = SWEEP, base: str = BASE) -> Lab:
    """A laboratory with text, chats, pairs and a task."""
    lab = Lab(folder, sweep, base).with_store()
    lab.write("text.txt", "".join(f"{n} and {n + 1} are {2 * n + 1}.\n" for n in range(60)))
    chats = [
        [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": str(n + 1)}]
        for n in range(8)
    ]
    lab.write("chats.jsonl", lines([{"messages": chat} for chat in chats]))
    pairs = [{"prompt": f"{n}?", "chosen": str(n + 1), "rejected": "no"} for n in range(8)]
    lab.write("pairs.jsonl", lines(pairs))
    lab.write("tasks/digits.yaml", TASK)
    asked = [{"q": f"{n}?", "choices": [str(n + 1), "no"], "answer": 0} for n in range(6)]
    lab.write("tasks/digits.jsonl", lines(asked))
    return lab
