"""The examples of docs/: they keep every law, train, generate what they say, and are probed."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import TINY
from torch import Tensor

from hymba_lab.commands import check
from hymba_lab.components.past import WHOLE
from hymba_lab.components.ssm import ssms
from hymba_lab.config import all_registries, load_config, plugins
from hymba_lab.model import LanguageModel, build_model
from hymba_lab.probes.maps import recurrence_map, summaries
from hymba_lab.probes.trace import watch

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
FILE = EXAMPLES / "gated_linear_attention.py"
MIXER = "ssm: {name: gated_linear_attention, n_heads: 4, d_key: 8}"


pytestmark = pytest.mark.usefixtures("no_plugin_stays")


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = tmp_path / "gla.yaml"
    text = TINY.replace("ssm: {name: mamba1, d_state: 4}", MIXER)
    path.write_text(f"plugins: [{FILE}]\n{text}")
    return path


def module() -> ModuleType:
    import sys

    plugins.load_plugin(FILE, list(all_registries().values()))
    return sys.modules[ssms.entry("gated_linear_attention").__module__]


def model_of(experiment: Path) -> LanguageModel:
    torch.manual_seed(0)
    return build_model(load_config(experiment, ["model.init_std=0.2"]).model, 16).eval()


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.stem)
def test_every_example_keeps_every_law(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([str(file)]) == 0, capsys.readouterr().out


def test_an_experiment_is_checked_with_its_own_options(experiment: Path) -> None:
    found = check.check([experiment])
    assert {outcome.component for outcome in found} == {"model.ssm: gated_linear_attention"}
    assert {outcome.verdict for outcome in found} == {"kept"}


def test_the_recurrence_is_its_equation() -> None:
    """Against the sum it stands for, in float64: y_t = sum_s q_t . (decays s+1..t * k_s) v_s."""
    random = torch.Generator().manual_seed(0)
    shape = (2, 7, 3, 4)
    q, k = (torch.randn(shape, generator=random, dtype=torch.float64) for _ in range(2))
    v = torch.randn(2, 7, 3, 5, generator=random, dtype=torch.float64)
    log_decay = -torch.rand(shape, generator=random, dtype=torch.float64)
    y, S = module().recurrence(q, k, v, log_decay, state=None)
    total = log_decay.cumsum(1)
    expected = torch.zeros_like(v)
    for t in range(7):
        for s in range(t + 1):
            weight = (q[:, t] * (total[:, t] - total[:, s]).exp() * k[:, s]).sum(-1)
            expected[:, t] += weight[..., None] * v[:, s]
    torch.testing.assert_close(y, expected)
    first, middle = module().recurrence(q[:, :3], k[:, :3], v[:, :3], log_decay[:, :3], state=None)
    rest, last = module().recurrence(q[:, 3:], k[:, 3:], v[:, 3:], log_decay[:, 3:], state=middle)
    torch.testing.assert_close(torch.cat([first, rest], 1), y)
    torch.testing.assert_close(last, S)


@torch.no_grad()
def test_it_generates_what_its_forward_pass_says(experiment: Path) -> None:
    model = model_of(experiment)
    prompt = torch.randint(0, 16, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, :6] = 0
    made = model.generate(prompt, mask, max_new_tokens=12, chunk_size=4)[:, 9:]
    for row in range(3):
        tokens = prompt[row][mask[row].bool()][None]
        for _ in range(12):
            tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], 1)
        assert torch.equal(made[row], tokens[0, -12:])


def test_it_trains(experiment: Path, tmp_path: Path) -> None:
    from hymba_lab.training.fit import fit

    config = load_config(experiment)
    result = fit(config, seed=0, folder=tmp_path / "run", log=lambda *_: None)
    losses = [value for name, value in result.metrics.items() if name.endswith("loss")]
    assert losses and all(value == value for value in losses)


def test_it_is_probed_like_an_ssm(experiment: Path) -> None:
    """The map of the recurrence times its values is what the recurrence returned."""
    tokens = torch.randint(0, 16, (2, 10), generator=torch.Generator().manual_seed(1))
    layer = watch(model_of(experiment), tokens)[0]
    seen = layer.recurrences["ssm"]["S"]
    alpha = recurrence_map(seen)
    y: Tensor = torch.einsum("bhts,bshv->bthv", alpha, seen.tokens["v"])
    torch.testing.assert_close(y, seen.y)
    assert alpha.triu(1).abs().max() == 0
    summary = summaries(layer, n_meta=0)["ssm"]
    torch.testing.assert_close(summary.shares.sum(), torch.tensor(1.0))


def test_the_options_reach_the_component(experiment: Path) -> None:
    ssm: Any = model_of(experiment).blocks[0].mixer.ssm  # type: ignore[union-attr]
    assert ssm.n_heads == 4 and ssm(torch.randn(1, 2, 16), WHOLE).shape == (1, 2, 32)
