"""`hymba-lab check` names every wrong plugin with the law that it breaks."""

import json
from pathlib import Path

import pytest
from conftest import ROOT, TINY, Write

from hymba_lab.commands import check
from hymba_lab.config import load_config
from hymba_lab.errors import ConfigError, UserError
from hymba_lab.testing import Outcome, targets
from hymba_lab.testing.plans import is_a_plan

MIXER = """\
import torch
from torch import Tensor, nn

from hymba_lab.components.past import WHOLE, Past, Recurrence
from hymba_lab.components.ssm import ssms


def running(v, decay, *, state):
    h = torch.zeros_like(v[:, 0]) if state is None else state.to(v.dtype)
    y = []
    for v_t, decay_t in zip(v.unbind(1), decay.unbind(1)):
        h = decay_t * h + v_t
        y.append(h)
    return torch.stack(y, 1), h


OP = Recurrence(running, no_step={"v": 0.0, "decay": 1.0})


@ssms.register("mine")
class Mine(nn.Module):
    '''h = sigmoid(W x) h + W x;  y = h.'''

    def __init__(self, d_model, d_inner, *, gain: float = 1.0):
        super().__init__()
        self.v, self.decay = nn.Linear(d_model, d_inner), nn.Linear(d_model, d_inner)
        self.gain = gain

    def forward(self, x, past: Past = WHOLE):
        v, decay = self.v(x), torch.sigmoid(self.decay(x))
        return self.gain * past.recur(OP, {"v": v, "decay": decay})

    def cache_shapes(self, n_tokens):
        return {"h": (self.v.out_features,)}
"""
BODY = 'return self.gain * past.recur(OP, {"v": v, "decay": decay})'
WHOLE_PASS = "return self.gain * running(v, decay, state=None)[0]"

FUSION = """\
import torch
from torch import nn

from hymba_lab.components.fusion import fusions


@fusions.register("mine")
class Mine(nn.Module):
    '''y = W (a + s).'''

    def __init__(self, d_attn, d_ssm, d_model):
        super().__init__()
        self.out = nn.Linear(d_attn, d_model)

    def forward(self, a, s):
        return self.out(a + s)
"""


pytestmark = pytest.mark.usefixtures("no_plugin_stays")


def broken(found: list[Outcome]) -> dict[str, str]:
    return {outcome.law: outcome.said for outcome in found if outcome.verdict == "broken"}


@pytest.mark.parametrize("source", [MIXER, FUSION], ids=["mixer", "fusion"])
def test_a_good_plugin_breaks_nothing(write: Write, source: str) -> None:
    found = check.check([write("mine.py", source)])
    assert broken(found) == {} and {outcome.verdict for outcome in found} == {"kept"}


WRONG = {
    "ignores its past": (MIXER, BODY, WHOLE_PASS, "memory", "'h' in cache_shapes and never asks"),
    "ignores it and says nothing is kept": (
        MIXER.replace('{"h": (self.v.out_features,)}', "{}"), BODY, WHOLE_PASS,
        "memory", "what reaches across tokens has to be asked of its past",
    ),
    "says nothing of what it keeps": (
        MIXER, "def cache_shapes", "def shapes", "memory", "it has no cache_shapes",
    ),
    "keeps under another name": (
        MIXER, 'return {"h"', 'return {"state"', "memory", "asks its past for 'h', but",
    ),
    "names what it never keeps": (
        MIXER, 'return {"h"', 'return {"spare": (3,), "h"', "memory", "'spare', which stays empty",
    ),
    "a no step that steps": (
        MIXER, '"decay": 1.0}', '"decay": 0.5}', "padding", "padding changed its state",
    ),
    "a step of its own that differs": (
        MIXER.replace("OP =", "def step(v, decay, *, state):\n    return state.add_(v)\n\n\nOP ="),
        "Recurrence(running,", "Recurrence(running, step,", "memory", "token by token its outputs",
    ),
    "keeps states beside the cache": (
        MIXER, "v, decay = self.v(x)", "self.last = x\n        v, decay = self.v(x)",
        "cache", "it keeps last beside the cache",
    ),
    "sees the future": (
        FUSION, "a + s", "a + s.flip(1)", "causality", "sees the future",
    ),
    "mixes tokens in a fusion": (
        FUSION, "a + s", "a + s.cumsum(1)", "generation", "it looks at other tokens",
    ),
    "lets rows see each other": (
        FUSION, "a + s", "a + s - s.mean(0)", "rows", "a row alone differs",
    ),
    "a parameter without influence": (
        FUSION, "        self.out =", "        self.spare = nn.Linear(2, 2)\n        self.out =",
        "gradient", "no gradient reaches the parameter spare.weight",
    ),
    "a branch that is not read": (FUSION, "a + s", "a", "gradient", "of the input is not read"),
    "a wrong width": (FUSION, "nn.Linear(d_attn, d_model)", "nn.Linear(d_attn, d_model + 1)",
                      "shape", "[2, 11, 17]; [2, 11, 16] is needed"),
    "no result": (FUSION, "return self.out(a + s)", "self.out(a + s)", "shape", "NoneType"),
    "raises": (FUSION, "a + s", "a @ s", "shape", "it raised RuntimeError"),
    "draws in forward": (FUSION, "a + s", "a + s * torch.rand(())", "seed", "draws from another"),
    "a number outside the state": (
        FUSION.replace("a + s)", "a + self.gain * s)"),
        "        self.out", "        self.gain = torch.rand(())\n        self.out",
        "weights", "not in state_dict",
    ),
    "no copy by pickle": (
        FUSION, "        self.out =", "        self.act = lambda x: x\n        self.out =",
        "copies", "it raised",
    ),
    "overflows": (FUSION, "a + s", "(a + s) * 1e38 * 1e3", "shape", "not finite"),
    "a tensor of its own on the CPU": (
        FUSION, "a + s", "a + s * torch.ones(a.shape[2], device='cpu')", "costs", "raised",
    ),
    "no super().__init__()": (
        FUSION, "        super().__init__()\n", "", "construction", "before Module.__init__",
    ),
    "a wrong signature": (
        FUSION, "def __init__(self, d_attn, d_ssm, d_model)", "def __init__(self, d_attn)",
        "construction", "positional arguments",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_plugin_is_named_with_its_law(write: Write, what: str) -> None:
    source, good, bad, law, said = WRONG[what]
    assert good in source
    found = broken(check.check([write("mine.py", source.replace(good, bad))]))
    assert law in found, found
    assert said in found[law], found


def test_what_a_wrong_shape_makes_senseless_is_not_tried(write: Write) -> None:
    path = write("mine.py", FUSION.replace("return self.out(a + s)", "return None"))
    verdicts = {outcome.law: outcome.verdict for outcome in check.check([path])}
    assert verdicts["shape"] == "broken" and verdicts["causality"] == "not tried"


OTHERS = {
    "schedule": (
        "from hymba_lab.optim.schedules import schedules\n\n\n@schedules.register('mine')\n"
        "def mine(n_steps, peak_lr):\n    return lambda step: 2.0 - step / n_steps\n",
        "factors", "must lie in [0, 1]",
    ),
    "optimizer": (
        "import torch\nfrom hymba_lab.optim.optimizers import optimizers\n\n\n"
        "@optimizers.register('mine')\ndef mine(model, *, lr: float = 0.1):\n"
        "    return torch.optim.SGD(list(model.parameters())[:1], lr=lr)\n",
        "training", "leave 0.bias where it was",
    ),
    "placement": (
        "from hymba_lab.components.placement import placements\n\n\n"
        "@placements.register('mine')\ndef mine(n_layers):\n    return [0] * n_layers\n",
        "plan", "0 is no window",
    ),
    "order": (
        "from hymba_lab.components.order import orders\n\n\n"
        "@orders.register('mine')\ndef mine(n_layers):\n    return ['ssm'] * (n_layers - 1)\n",
        "plan", "is not a list of 6 kinds",
    ),
    "kv sharing": (
        "from hymba_lab.components.kv_sharing import kv_sharings\n\n\n"
        "@kv_sharings.register('mine')\ndef mine(windows):\n    return [0] * len(windows)\n",
        "plan", "whose window is another",
    ),
    "data": (
        "import torch\nfrom hymba_lab.data.source import Batch, datasets\n\n\n"
        "@datasets.register('mine')\nclass Mine:\n    groups, scored = ('all',), 'loss'\n"
        "    fingerprint, vocab, bytes_per_token, reference = 'a', 9, None, {}\n\n"
        "    def __init__(self, seq_len, *, rows: int = 2):\n"
        "        self.rows, self.seq_len = rows, seq_len\n\n"
        "    def train_batch(self, seed, step):\n"
        "        tokens = torch.randint(0, 9, (self.rows, self.seq_len))\n"
        "        return Batch(tokens, tokens, torch.zeros(self.rows, dtype=torch.long))\n\n"
        "    def val_batches(self):\n        yield self.train_batch(0, 0)\n",
        "batches", "two different batches",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_module_has_laws_too(write: Write, what: str) -> None:
    source, law, said = OTHERS[what]
    found = broken(check.check([write("mine.py", source)]))
    assert said in found[law], found


def test_the_command_prints_laws_and_exit_codes(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main([str(write("good.py", FUSION))]) == 0
    assert "model.fusion: mine" in capsys.readouterr().out
    bad = write("bad.py", FUSION.replace('"mine"', '"bad"').replace("a + s", "a + s.flip(1)"))
    assert check.main([str(bad)]) == 1
    shown = capsys.readouterr().out
    assert "BROKEN  causality" in shown and "a change of token" in shown
    assert check.main([str(bad), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {"component", "law", "verdict", "said"} == set(found[0])


def test_an_experiment_gives_options_and_widths(write: Write) -> None:
    source = FUSION.replace("d_model):", "d_model, *, gain: float):")  # no default
    write("mine.py", source)
    text = "plugins: [mine.py]\n" + TINY.replace("{name: mean}", "{name: mine, gain: 3.0}")
    found = check.check([write("mine.yaml", text)])
    assert broken(found) == {} and {o.component for o in found} == {"model.fusion: mine"}


def test_an_experiment_without_plugins_is_checked_whole(tiny: Path) -> None:
    found = check.check([tiny])
    assert broken(found) == {}
    assert {"model.ssm: mamba1", "data: mqar", "schedule: wsd"} <= {o.component for o in found}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("empty.py", "x = 1\n", "registers no component"),
        ("gone.py", "import sys\nsys.exit(0)\n", "gone.py:2: SystemExit"),
        ("notes.txt", "", r"give a plugin \(.py\) or an experiment"),
    ],
)
def test_nothing_to_check_is_one_sentence(write: Write, name: str, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check.check([write(name, text)])


def test_an_option_without_a_simple_value_says_where_to_give_one(write: Write) -> None:
    source = FUSION.replace("d_model):", "d_model, *, table: dict[str, list[int]]):")
    source = source.replace("dict[str, list[int]]", "tuple[int, str, float]")
    with pytest.raises(ConfigError, match=r"option table has no default.*check my_experiment"):
        check.check([write("mine.py", source)])


def test_a_forgetful_plugin_is_refused_by_name_before_it_generates(write: Write) -> None:
    import torch

    from hymba_lab.config import load_config
    from hymba_lab.model import build_model

    write("mine.py", MIXER.replace(BODY, WHOLE_PASS))
    text = "plugins: [mine.py]\n" + TINY.replace("{name: mamba1, d_state: 4}", "{name: mine}")
    model = build_model(load_config(write("mine.yaml", text)).model, 16)
    tokens = torch.zeros(1, 3, dtype=torch.long)
    assert model(tokens).shape == (1, 3, 16), "it may be trained and evaluated"
    with pytest.raises(UserError, match=r"Mine cannot generate: .*never asks its past"):
        next(model.stream(tokens, max_new_tokens=2))


PLACES = ("*.yaml", "published/*.yaml", "recipes/*.yaml")
SHIPPED = sorted(file for place in PLACES for file in (ROOT / "experiments").glob(place))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_plans_of_shipped_experiments_keep_the_laws(file: Path) -> None:
    """Built for as many layers, and for the windows, that the experiment has."""
    config = load_config(file)
    plans = {"model.order", "model.placement", "model.kv_sharing"}
    planned = [one for one in targets._of_experiment(config) if one.path in plans]
    assert planned or config.plugins, "of a plugin's experiment only what it adds is checked"
    for subject in planned:
        is_a_plan(subject)


def test_what_no_layer_builds_is_not_checked() -> None:
    """The baseline of attention alone names a fusion of the experiment that it extends."""
    config = load_config(ROOT / "experiments/llama_300m.yaml")
    paths = {one.path for one in targets._of_experiment(config)}
    assert "model.attention" in paths
    assert not paths & {"model.fusion", "model.ssm"}


def test_a_part_of_some_layers_is_tried_with_the_options_it_has_there(write: Write) -> None:
    """It was tried with its defaults: of an override alone nothing was known."""
    write("mine.py", MIXER)
    layers = "  layers: [{at: [0], ssm: {name: mine, gain: 3.0}}]\n"
    text = "plugins: [mine.py]\n" + TINY.replace("model:\n", "model:\n" + layers)
    [subject] = targets.subjects_of(write("e.yaml", text))
    assert subject.spec.options() == {"gain": 3.0}
