"""`hymba-lab init my_lab`: a laboratory of one's own that runs as it stands."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hymba_lab import cli
from hymba_lab.errors import StoreError

EXPERIMENT = """\
# One run. `extends` fills in what is not said here; see `hymba-lab inspect experiment.yaml`.
extends: hymba_lab:nano
name: my_experiment
plugins: [my_fusion.py]      # relative to this file, like every path in it
data:
  recall: {name: mqar, rows: 64, vocab: 128, n_pairs: [2, 4, 8, 16], n_val: 128}
  text: {name: files, rows: 16, paths: [text/*.txt]}
training: {seq_len: 64, tokens: 256_000, val_every: 10}
"""
SWEEP = """\
# One table. Every row is tuned alike, gets equal parameters, and is trained with three seeds.
question: Does my fusion come to a lower loss on recall than the mean, after as many tokens?
base: experiment.yaml
metric: {name: val/recall_loss, goal: minimize}
also: [val/recall_accuracy, val/text_bits_per_byte]
seeds: [0, 1, 2]
axes:
  fusion:
    mean: {model.fusion: {name: mean}}
    product: {model.fusion: {name: my_product}}
search:
  optimizer.lr: {choices: [2.0e-3, 4.0e-3]}
sampler: {name: grid}
trials_per_cell: 2
tuning: race     # every row's rates train on the compared seeds; the best over all is compared
behind: 0.3      # a rate that is so far behind after one seed is given up, in nats
match: {params: baseline, by: model.mlp.d_ff, tolerance: 1%}
"""
PLUGIN = '''\
"""A way to fuse the two branches: options are the keyword-only parameters, the YAML gives them."""

from torch import Tensor, nn

from hymba_lab.components.fusion import fusions


@fusions.register("my_product")
class MyProduct(nn.Module):
    """y = W (a * silu(s))."""

    def __init__(self, d_attn: int, d_ssm: int, d_model: int, *, bias: bool = False) -> None:
        super().__init__()
        self.out = nn.Linear(d_attn, d_model, bias=bias)

    def forward(self, a: Tensor, s: Tensor) -> Tensor:
        return self.out(a * nn.functional.silu(s))
'''
TEXT = """\
Put your own text here: .txt, .md, .jsonl or parquet files, a document a file, a line or a row. Of
twenty documents about one is kept for validation and never trained on; of a single one, its end.

A laboratory answers one question at a time. It changes one thing, keeps all others equal, repeats
itself, and says how large a difference it could have missed.
"""
NEXT = """\
# What to do next

    hymba-lab sweep sweep.yaml --plan --calibrate    # rows, parameters, time, what seeds can detect
    hymba-lab sweep sweep.yaml    # train what is missing, then the table; again to go on
    mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1    # curves, grouped by row

- The question stands in `sweep.yaml`: change the axes, the metric, the seeds.
- A loss is compared at the end. How soon a task is solved is compared with
  `metric: {name: val/recall_accuracy, goal: maximize}`,
  `stop: {metric: val/recall_accuracy, at: 0.95}` in place of the line `behind:`, and some millions
  of tokens: the first row has to solve it.
- Your text stands in `text/`, your component in `my_fusion.py`.
- `hymba-lab` lists every command; shipped sweeps run without a path: `hymba-lab sweep meta_tokens`.
- Results are in `runs/sweeps/sweep-nano/`: `table.md`, `runs.csv`; runs are never trained twice.
"""
FILES = {
    "experiment.yaml": EXPERIMENT,
    "sweep.yaml": SWEEP,
    "my_fusion.py": PLUGIN,
    "text/about.txt": TEXT * 40,
    "NEXT.md": NEXT,
    ".gitignore": "runs/\nmlartifacts/\nmlflow.db*\n__pycache__/\n",
}


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="hymba-lab init", description="Write a laboratory to start from; it runs as it stands."
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new or empty folder")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files; returns 0."""
    folder = arguments().parse_args(argv).folder
    init(folder)
    print(f"{folder}: {', '.join(FILES)}\nnext: cd {folder}, then read NEXT.md")
    return 0


def init(folder: Path) -> None:
    """Write the starter into a folder that is new or empty; a `StoreError` says why it is not."""
    from hymba_lab.atomic import make_folder, write_atomically

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{folder}: is not empty; name a new folder, nothing was written.")
    for name, text in FILES.items():
        make_folder((folder / name).parent, "hymba-lab init FOLDER")
        write_atomically(folder / name, text)


if __name__ == "__main__":
    cli.run(main)
