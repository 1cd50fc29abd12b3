"""What users get wrong: files and arguments, and what the one message about it must contain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MEAN, GATE = {"model.fusion": {"name": "mean"}}, {"model.fusion": {"name": "gate"}}
SWIGLU = {"model.mlp": {"name": "swiglu", "d_ff": 24}}
RECALL = "recall: {name: mqar, rows: 4, vocab: 16, n_pairs: [1, 2], n_val: 8}"
RANGE = {"optimizer.lr": {"low": 1e-3, "high": 1e-2}}
CHOICES = {"optimizer.lr": {"choices": [1e-3, 1e-2]}}

BREAKS_ON_IMPORT = "import torch\nraise ValueError('the author made a mistake')\n"
BREAKS_IN_FORWARD = """\
from torch import nn
from hymba_lab.components.fusion import fusions

@fusions.register("unfinished")
class Unfinished(nn.Module):
    def __init__(self, d_attn, d_ssm, d_model):
        super().__init__()

    def forward(self, a, s):
        return a.no_such_method(s)
"""


@dataclass(frozen=True)
class Case:
    """One bad input. `base` replaces text of the experiment, `sweep` keys of the sweep file."""

    id: str
    said: Sequence[str]
    sweep: Mapping[str, Any] = field(default_factory=dict)
    base: tuple[str, str] = ("", "")
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    arguments: Sequence[str] = ()
    file: str = "sweep.yaml"


def data(spec: str) -> tuple[str, str]:
    return RECALL, f"recall: {spec}"


def axes(**choices: Any) -> dict[str, Any]:
    return {"axes": {"an axis": choices}}


def match(**keys: Any) -> dict[str, Any]:
    return {"match": {"params": "baseline", "by": "model.mlp.d_ff", **keys}}


def text(content: str | bytes) -> dict[str, str | bytes]:
    return {"sweep.yaml": content}


FILES = [
    Case("no sweep file", ["swep.yaml: there is no such file", "sweep.yaml"], file="swep.yaml"),
    Case("a folder as sweep file", ["is a directory; name a YAML file in it"], file="."),
    Case("no base", ["tyni.yaml: there is no such file", "named at", "sweep.yaml:3:2: base"],
         {"base": "tyni.yaml"}),
    Case("a folder as base", ["is a directory"], {"base": "."}),
    Case("an experiment as a sweep",
         ["tiny.yaml: this file is an experiment, not a sweep; hymba-lab train takes it"],
         file="tiny.yaml"),
    Case("a sweep as its own base",
         ["sweep.yaml: this file is a sweep, not an experiment; hymba-lab sweep takes it"],
         {"base": "sweep.yaml"}),
    Case("a scale as a sweep", ["--scale takes it"],
         files=text("base: tiny.yaml\nwords: {n: 1}\n")),
    Case("base extends itself", ["tiny.yaml: extends itself", "other.yaml"],
         base=("name: tiny\n", "name: tiny\nextends: other.yaml\n"),
         files={"other.yaml": "extends: tiny.yaml\n"}),
    Case("base extends nothing", ["gone.yaml: there is no such file", "tiny.yaml:2:1 extends"],
         base=("name: tiny\n", "name: tiny\nextends: gone.yaml\n")),
    Case("extends a number", ["tiny.yaml:2:1: extends: 3 is not a file name"],
         base=("name: tiny\n", "name: tiny\nextends: 3\n")),
    Case("not UTF-8", ["sweep.yaml:1:14: byte 13 is not UTF-8; save it as UTF-8"],
         files=text(b"question: caf\xe9")),
    Case("a tab", ["sweep.yaml:2:1: not valid YAML", "'\\t'"],
         files=text("question: x\n\tbase: y\n")),
    Case("an unclosed bracket", ["sweep.yaml:2:1: not valid YAML"], files=text("seeds: [0, 1\n")),
    Case("an alias of nothing", ["sweep.yaml:1:7: not valid YAML", "undefined alias", "nothing"],
         files=text("axes: *nothing\n")),
    Case("an alias of itself", ["sweep.yaml:1:7: ", "axes.x: an alias contains itself"],
         files=text("axes: &a {x: *a}\n")),
    Case("nested without end", ["sweep.yaml:1:", "nested too deeply"],
         files=text("a: " + "[" * 300 + "]" * 300)),
    Case("a number of 5000 digits", ["sweep.yaml:1:4: not valid YAML", "5000 digits"],
         files=text("a: " + "9" * 5000)),
    Case("a mapping where a number belongs", ["search.optimizer.lr.low", "got {'a': 1}"],
         sweep={"search": {"optimizer.lr": {"low": {"a": 1}, "high": 0.1}}}),
    Case("an alias bomb", ["holds more than 100000 values; is an alias repeated?"],
         files=text("a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
             f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n"
             for old, new in zip("abcde", "bcdef", strict=True)))),
    Case("a key twice", ["sweep.yaml:2:1: not valid YAML", "duplicate key", "question"],
         files=text("question: x\nquestion: y\n")),
    Case("a label twice", ["sweep.yaml:4:3: not valid YAML", "duplicate key", "mean"],
         files=text("axes:\n fusion:\n  mean: {}\n  mean: {}\n")),
    Case("a label that is a number",
         ["sweep.yaml:3:3: axes.meta: the key 4 is not text; put it in quotes"],
         files=text("axes:\n meta:\n  4: {}\n")),
    Case("an empty file", ["sweep.yaml:1:1: holds nothing; a mapping"], files=text("")),
    Case("a list", ["sweep.yaml:1:1: holds a", "a mapping of keys"], files=text("- a\n")),
    Case("a date",
         ["sweep.yaml:1:11: ", "question: the date 2024-01-01 is not allowed; write text"],
         files=text("question: 2024-01-01\n")),
]  # fmt: skip

SCHEMA = [
    Case("an unknown key", ["sweep.yaml:", "metrc: no key 'metrc'", "Did you mean 'metric'?"],
         {"metrc": 1}),
    Case("no question", ["question: is missing"], files=text("base: tiny.yaml\n")),
    Case("several errors at once", ["design:", "alpha:"], {"design": "all", "alpha": 2}),
    Case("seeds as text", ["seeds: input should be a valid", "'zero'"], {"seeds": "zero"}),
    Case("no seeds", ["seeds:", "at least 1 item"], {"seeds": []}),
    Case("a negative seed", ["seeds.0:", "greater than or equal to 0"], {"seeds": [-1]}),
    Case("a seed that is true", ["seeds.0:", "valid integer", "True"], {"seeds": [True]}),
    Case("a seed twice", ["seeds: [1, 1] repeats a seed"], {"seeds": [1, 1]}),
    Case("tuned on a judging seed", ["tune_seed: 1 is one of the seeds [0, 1]"], {"tune_seed": 1}),
    Case("an unknown goal", ["metric.goal:", "'maximize' or 'minimize'", "'highest'"],
         {"metric": {"name": "val/loss", "goal": "highest"}}),
    Case("an unknown design", ["design:", "'one_factor'", "'everything'"],
         {"design": "everything"}),
    Case("an impossible alpha", ["alpha:", "less than 1"], {"alpha": 1.5}),
    Case("no time at all", ["trial_timeout_minutes:", "greater than 0"],
         {"trial_timeout_minutes": 0}),
    Case("a limit past all time", ["trial_timeout_minutes:", "less than or equal to 10000000"],
         {"trial_timeout_minutes": 1e300}),
    Case("negative retries", ["retries:", "greater than or equal to 0"], {"retries": -1}),
    Case("an unknown sampler",
         ["sampler.name: no component 'cmaes'; choose one of tpe, random, grid"],
         {"sampler": {"name": "cmaes"}}),
    Case("a halving that halves nothing", ["pruner.reduction_factor:", "equal to 2"],
         {"pruner": {"name": "successive_halving", "reduction_factor": 1}}),
    Case("overtaken by whom", ["sweep.yaml:", "pruner.name: overtaken gives up", "needs stop:"],
         {"pruner": {"name": "overtaken"}}),
    Case("a paper's number as text", ["paper.values.mean:", "valid number", "'0.9'"],
         {"paper": {"label": "x", "values": {"mean": "0.9"}}}),
]  # fmt: skip

TOGETHER = [
    Case("a metric that no run has", [
        "metric.name: no run will have 'val/recall_acuracy'", "Did you mean 'val/recall_accuracy'?",
    ], {"metric": {"name": "val/recall_acuracy", "goal": "maximize"}}),
    Case("a training metric", ["metric.name: no run will have 'train/loss'"],
         {"metric": {"name": "train/loss", "goal": "minimize"}}),
    Case("a further metric that no run has", ["also.1: no run will have 'val/text_loss'"],
         {"also": ["val/loss", "val/text_loss"]}),
    Case("an unknown cost", ["objectives.0.name: no run will have 'cost/money'", "cost/params"], {
        "objectives": [{"name": "cost/money", "goal": "minimize"}],
        "design": "search", "n_trials": 2,
    }),
    Case("objectives without a search", ["objectives: several goals are for design: search"],
         {"objectives": [{"name": "val/loss", "goal": "minimize"}]}),
    Case("n_trials without a search over axes", ["n_trials: is for design: search"],
         {"n_trials": 3}),
    Case("a search over axes of no length", ["design: search chooses over the axes; say how often"],
         {"design": "search"}),
    Case("a search over axes per cell", ["trials_per_cell: design: search counts all trials"],
         {"design": "search", "n_trials": 2, "trials_per_cell": 2}),
    Case("a search never made", ["search: is never tried: trials_per_cell is 0"],
         {"search": RANGE}),
    Case("trials of nothing", ["trials_per_cell: there is nothing to try"], {"trials_per_cell": 2}),
    Case("a range upside down", ["search.optimizer.lr: low = 2 must be below high = 1"],
         {"search": {"optimizer.lr": {"low": 2, "high": 1}}, "trials_per_cell": 1}),
    Case("half a range", ["search.optimizer.lr: low = 1 must be below high = None"],
         {"search": {"optimizer.lr": {"low": 1}}, "trials_per_cell": 1}),
    Case("a logarithm of zero", ["search.optimizer.lr: low = 0 must be above 0 on a logarithmic"],
         {"search": {"optimizer.lr": {"low": 0, "high": 1, "log": True}}, "trials_per_cell": 1}),
    Case("a range and choices", ["search.optimizer.lr: give either low and high, or a non-empty"],
         {"search": {"optimizer.lr": {"low": 0, "choices": [1]}}, "trials_per_cell": 1}),
    Case("no choices", ["search.optimizer.lr: give either low and high, or a non-empty"],
         {"search": {"optimizer.lr": {"choices": []}}, "trials_per_cell": 1}),
    Case("a choice twice", ["search.optimizer.lr.choices.1: repeats 0.001; drop one"],
         {"search": {"optimizer.lr": {"choices": [1e-3, 1e-3]}}, "trials_per_cell": 1}),
    Case("a grid over a range", ["search.optimizer.lr: sampler: grid takes choices"],
         {"search": RANGE, "trials_per_cell": 2, "sampler": {"name": "grid"}}),
    Case("a grid cut short", ["trials_per_cell: 1, but the grid has 2 points"],
         {"search": CHOICES, "trials_per_cell": 1, "sampler": {"name": "grid"}}),
    Case("a search over nothing there",
         ["search.optimizer.weight_deca: tiny.yaml has no", "Did you mean 'weight_decay'?"],
         {"search": {"optimizer.weight_deca": {"choices": [1]}}, "trials_per_cell": 1}),
    Case("a searched value that cannot be trained", ["lr_min 1e-05 is above optimizer.lr 1e-09"],
         {"search": {"optimizer.lr": {"low": 1e-9, "high": 1e-2}}, "trials_per_cell": 1}),
    Case("a searched value of the wrong type", ["optimizer.lr: input should be a valid", "'fast'"],
         {"search": {"optimizer.lr": {"choices": ["fast"]}}, "trials_per_cell": 1}),
    Case("a search over the data", ["search.data.recall.rows: all rows of a table share data"],
         {"search": {"data.recall.rows": {"choices": [1, 2]}}, "trials_per_cell": 1}),
]  # fmt: skip

AXES = [
    Case("no axes", ["axes: is empty; name at least one axis"], {"axes": {}}),
    Case("an axis of one choice", ["axes.an axis: has fewer than two choices"], axes(mean=MEAN)),
    Case("an unknown path", [
        "axes.an axis.b.model.fusoin: tiny.yaml has no model.fusoin: no key 'fusoin'",
        "Did you mean 'fusion'?",
    ], axes(a=MEAN, b={"model.fusoin": {"name": "gate"}})),
    Case("a path into a number", ["model.d_model.x: tiny.yaml has no model.d_model.x: no key 'x'"],
         axes(a=MEAN, b={"model.d_model.x": 3})),
    Case("two axes on one path", [
        "axes.second: sets model.fusion, and axis 'first' sets model.fusion; one path",
    ], {"axes": {"first": {"a": MEAN, "b": GATE}, "second": {"c": GATE, "d": MEAN}}}),
    Case("an axis inside another", [
        "axes.width: sets model.mlp.d_ff, and axis 'mlp' sets model.mlp",
    ], {"axes": {"mlp": {"a": SWIGLU, "b": {"model.mlp": {"name": "none"}}},
                 "width": {"c": {"model.mlp.d_ff": 8}, "d": {"model.mlp.d_ff": 9}}}}),
    Case("an axis over what is searched", [
        "axes.an axis: sets optimizer, and search sets optimizer.lr",
    ], {**axes(a={"optimizer": {"name": "adamw", "lr": 1}}, b={}), "search": RANGE,
        "trials_per_cell": 1}),
    Case("a choice that sets a path twice", [
        "axes.an axis.b: sets model.mlp and model.mlp.d_ff; one lies inside the other",
    ], axes(a={}, b={**SWIGLU, "model.mlp.d_ff": 8})),
    Case("an axis named like a column", ["axes.seed: is a column of the table of runs"],
         {"axes": {"seed": {"a": MEAN, "b": GATE}}}),
    Case("an axis over the budget", ["training.tokens: all rows of a table share training.tokens"],
         axes(a={"training.tokens": 640}, b={"training.tokens": 1280})),
    Case("an unknown component in a row", [
        "row 'b' of", "model.fusion.name: no component 'gaet'", "Did you mean 'gate'?",
    ], axes(a=MEAN, b={"model.fusion": {"name": "gaet"}})),
    Case("an unknown option in a row", [
        "row 'b' of", "model.fusion.inti: no key 'inti'", "Did you mean 'init'?",
    ], axes(a=MEAN, b={"model.fusion": {"name": "gate", "inti": 1.0}})),
    Case("a choice that is no mapping", ["axes.an axis.b: ", "mapping"], axes(a=MEAN, b="gate")),
    Case("two labels for one model", ["the rows 'a' and 'b' are one configuration; drop one"],
         axes(a=MEAN, b=MEAN)),
    Case("an unknown baseline", ["baseline: no row 'maen'; choose one of mean, gate",
         "Did you mean 'mean'?"], {"baseline": "maen"}),
    Case("a paper's number for no row", ["paper.values.gaet: no row 'gaet'", "'gate'"],
         {"paper": {"label": "x", "values": {"gaet": 0.9}}}),
    Case("widths that cannot be averaged", ["row 'b' of", "model.fusion", "16", "32"], axes(
        a=MEAN, b={"model.heads": {"name": "hybrid", "n_heads": 2, "d_head": 8, "d_head_v": 8}})),
]  # fmt: skip

MATCH = [
    Case("an equality of nothing", ["match: give one of params and flops"],
         {"match": {"by": "model.mlp.d_ff"}}),
    Case("two equalities", ["match: give one of params and flops"],
         match(flops="baseline")),
    Case("a match with a row", ["match.params: 'mean' is neither baseline"], match(params="mean")),
    Case("a match with 0", ["match.params: 0 is neither baseline nor"], match(params=0)),
    Case("a tolerance that is no number", ["match.tolerance: 'abc%' is no share such as 0.5%"],
         match(tolerance="abc%")),
    Case("a tolerance without a sign", ["match.tolerance: '0.5' is no share such as 0.5%"],
         match(tolerance="0.5")),
    Case("no tolerance", ["match.tolerance: '0%' is no share"], match(tolerance="0%")),
    Case("a match by nothing there", ["match.by: tiny.yaml has no model.mlp.d_fff", "'d_ff'"],
         match(by="model.mlp.d_fff")),
    Case("a match by a fraction", ["match.by: optimizer.lr is 0.003; the free knob must be an"],
         match(by="optimizer.lr")),
    Case("a match by what costs nothing", ["match.by: training.log_every does not change row"],
         match(by="training.log_every")),
    Case("a match by what an axis sets", ["match.by: model.mlp.d_ff is set by axis 'an axis'"],
         {**axes(a={"model.mlp.d_ff": 8}, b={"model.mlp.d_ff": 9}), **match()}),
    Case("a match by what a row replaces", ["match.by: a row replaces what holds model.mlp.d_ff"],
         {**axes(a=SWIGLU, b={"model.mlp": {"name": "none"}}), **match()}),
    Case("an impossible match", [
        "match: model.mlp.d_ff cannot give every row the baseline's", "'b': model.mlp.d_ff = ",
        "Allow a larger tolerance, free another integer, or change the row.",
    ], {**axes(a=MEAN, b={"model.meta_tokens": {"name": "learned", "n_meta": 4}}),
        **match(tolerance="0.001%")}),
]  # fmt: skip

BASE = [
    Case("an unknown key in the model", ["tiny.yaml:4:3: model.d_modle: no key 'd_modle'",
         "'d_model'", "model.d_model: is missing"], base=("  d_model: 16", "  d_modle: 16")),
    Case("a width as text", ["tiny.yaml:4:3: model.d_model", "valid integer", "'16' (str)"],
         base=("d_model: 16", "d_model: '16'")),
    Case("no width", ["model.d_model", "greater than or equal to 1", "got 0"],
         base=("d_model: 16", "d_model: 0")),
    Case("an unknown component", ["tiny.yaml:8:", "model.fusion.name: no component 'men'"],
         base=("{name: mean}", "{name: men}")),
    Case("an unknown option of a component", ["model.mlp.d_fff: no key 'd_fff'", "'d_ff'"],
         base=("d_ff: 24", "d_ff: 24, d_fff: 3")),
    Case("no schedule", ["schedule: is missing"], base=("schedule: {name: wsd}\n", "")),
    Case("a learning rate that is no number", ["optimizer.lr", "finite number"],
         base=("lr: 3.0e-3", "lr: .nan")),
    Case("pairs that do not fit",
         ["tiny.yaml:16:3: data.recall: n_pairs: 8 pairs", "need 32 tokens", "seq_len is 16"],
         base=("n_pairs: [1, 2]", "n_pairs: [8]")),
    Case("a budget below one step", ["training.tokens", "63", "one step"],
         base=("tokens: 640", "tokens: 63")),
    Case("a vocabulary too small", ["model.vocab", "8", "16"],
         base=("  n_layers: 1", "  n_layers: 1\n  vocab: 8")),
    Case("an unknown kind of data", ["data.recall.name: no component 'mqra'", "'mqar'"],
         base=("name: mqar", "name: mqra")),
    Case("a label of data with a blank", ["data.the recall", "should match pattern"],
         base=("  recall:", "  the recall:")),
    Case("no data", ["data:", "at least 1 item"], base=(f"\n  {RECALL}", " {}")),
    Case("a scale that is a path", ["base: the base's scale '../x' names the folder of results"],
         base=("scale: tiny", "scale: ../x")),
    Case("files that are not there", ["files.paths[0]: '/gone/*.txt' matches no file"],
         base=data("{name: files, rows: 4, paths: ['/gone/*.txt']}")),
    Case("a folder of files", ["files.paths[0]: '/proc' is a folder; name files"],
         base=data("{name: files, rows: 4, paths: [/proc]}")),
    Case("an empty text", ["no text for the training part"],
         base=data("{name: files, rows: 4, paths: [LAB/empty.txt]}"), files={"empty.txt": ""}),
    Case("a text in latin-1", ["latin.txt: not UTF-8: byte 0xe9 at offset 3", "iconv"],
         base=data("{name: files, rows: 4, paths: [LAB/latin.txt]}"),
         files={"latin.txt": b"caf\xe9"}),
    Case("a parquet file that is none", ["broken.parquet: not a readable parquet file"],
         base=data("{name: files, rows: 4, paths: [LAB/broken.parquet]}"),
         files={"broken.parquet": "PAR1 and nothing else PAR1"}),
    Case("a field that no line has", ["lines.jsonl:1: no field 'text'; it has 'body'"],
         base=data("{name: files, rows: 4, paths: [LAB/lines.jsonl]}"),
         files={"lines.jsonl": '{"body": "x"}\n'}),
    Case("a file of an unknown kind", ["has the suffix '.doc'; allowed: .txt"],
         base=data("{name: files, rows: 4, paths: [LAB/a.doc]}"), files={"a.doc": "x"}),
    Case("token ids beyond the vocabulary", ["ids.bin: ids from", "vocab 4 allows 0 to 3"],
         base=data("{name: shards, rows: 4, vocab: 4, train: LAB/ids.bin, val: LAB/v.bin}"),
         files={"ids.bin": bytes(range(200)), "v.bin": bytes(200)}),
    Case("tokens to train on and to validate on", ["ids.bin is in train and in val"],
         base=data("{name: shards, rows: 4, vocab: 9999, train: LAB/ids.bin, val: LAB/ids.bin}"),
         files={"ids.bin": bytes([1, 2] * 100)}),
]  # fmt: skip

PLUGINS = [
    Case("a plugin that is not there", ["plugins.0: there is no file", "gone.py", "relative to"],
         base=("name: tiny\n", "name: tiny\nplugins: [gone.py]\n")),
    Case("plugins that are no list", ["plugins: 'mine.py' is not a list of Python files"],
         base=("name: tiny\n", "name: tiny\nplugins: mine.py\n")),
    Case("a plugin that is no Python", ["mine.py:2: SyntaxError"],
         base=("name: tiny\n", "name: tiny\nplugins: [mine.py]\n"),
         files={"mine.py": "import torch\nclass Fusion\n"}),
    Case("a plugin that breaks", ["mine.py:2: ValueError: the author made a mistake"],
         base=("name: tiny\n", "name: tiny\nplugins: [mine.py]\n"),
         files={"mine.py": BREAKS_ON_IMPORT}),
    Case("a component that breaks", ["row 'b' of", "no_such_method", "mine.py:10"],
         axes(a=MEAN, b={"model.fusion": {"name": "unfinished"}}),
         base=("name: tiny\n", "name: tiny\nplugins: [mine.py]\n"),
         files={"mine.py": BREAKS_IN_FORWARD}),
]  # fmt: skip

ARGUMENTS = [
    Case("an override without a value", ["--set model.d_model: write --set path.to.key=value"],
         arguments=["--set", "model.d_model"]),
    Case("an override of the sweep without a value", ["--set seeds: write --set path.to.key=value"],
         arguments=["--set", "seeds"]),
    Case("an override of nothing there", ["--set model.d_modle=8", "no key 'd_modle'", "'d_model'"],
         arguments=["--set", "model.d_modle=8"]),
    Case("an override that is no YAML", ["--set seeds=[0", "not valid YAML"],
         arguments=["--set", "seeds=[0"]),
    Case("an override into a number", ["--set model.d_model.x=8", "holds no keys"],
         arguments=["--set", "model.d_model.x=8"]),
    Case("no workers", ["argument --workers: '0' is no whole number from 1"],
         arguments=["--workers", "0"]),
    Case("no threads", ["argument --threads: '-2' is no whole number from 1"],
         arguments=["--threads", "-2"]),
    Case("workers in words", ["argument --workers: 'two' is no whole number"],
         arguments=["--workers", "two"]),
    Case("an unknown option", ["unrecognized arguments: --seed 3"], arguments=["--seed", "3"]),
    Case("a root below a file", ["tiny.yaml/x/runs", "cannot be made", "--root"],
         arguments=["--root", "LAB/tiny.yaml/x"]),
    Case("a root that is read-only", ["/proc/hymba_lab", "cannot be made", "--root"],
         arguments=["--root", "/proc/hymba_lab"]),
    Case("an unknown kind of store", ["tracking store carrier-pigeon://x", "--tracking-uri"],
         arguments=["--tracking-uri", "carrier-pigeon://x"]),
    Case("a store below a file", ["tiny.yaml", "cannot be made"],
         arguments=["--tracking-uri", "sqlite:///LAB/tiny.yaml/mlflow.db"]),
    Case("a store that is no database", ["tracking store sqlite:///", "file is not a database"],
         files={"notes.db": "these are notes, and not a database at all" * 100},
         arguments=["--tracking-uri", "sqlite:///LAB/notes.db"]),
]  # fmt: skip

CASES = [*FILES, *SCHEMA, *TOGETHER, *AXES, *MATCH, *BASE, *PLUGINS, *ARGUMENTS]
