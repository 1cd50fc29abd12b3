"""The seam for mixers: any recurrence, in any cut, padded or not, equals its own whole pass."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from examples import model_config
from torch import Tensor, nn
from torch.nn.functional import softplus

from hymba_lab.components.past import WHOLE, Past, Recurrence, kept_dtype
from hymba_lab.components.ssm import ssms
from hymba_lab.errors import UserError
from hymba_lab.model import LanguageModel, build_model
from hymba_lab.probes.trace import watch

VOCAB = 13


def decayed_sum(
    v: Tensor, decay: Tensor, *, gain: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """h_t = decay_t h_{t-1} + v_t;  y_t = gain h_t, by a loop."""
    h, ys = v.new_zeros(v.shape[0], v.shape[2]) if state is None else state.to(v.dtype), []
    for v_t, decay_t in zip(v.unbind(1), decay.unbind(1), strict=True):
        h = decay_t * h + v_t
        ys.append(gain * h)
    return torch.stack(ys, 1), h


def last_two(v: Tensor, *, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Any]:
    """y_t = v_{t-1} v_{t-2}: no value of v leaves the two states as they are."""
    first, second = state or (torch.zeros_like(v[:, 0]), torch.zeros_like(v[:, 0]))
    ys = []
    for v_t in v.unbind(1):
        ys.append(first * second)
        first, second = v_t, first
    return torch.stack(ys, 1), (first, second)


def step(v: Tensor, decay: Tensor, *, gain: Tensor, state: Tensor) -> Tensor:
    return gain * state.mul_(decay).add_(v)


PLAIN = Recurrence(decayed_sum, no_step={"v": 0.0, "decay": 1.0})
STEPPED = Recurrence(decayed_sum, step, no_step={"v": 0.0, "decay": 1.0})
APART = Recurrence(decayed_sum)  # the same without a value that leaves the state
SHIFT = Recurrence(last_two)


class Mixer(nn.Module):
    """A branch with two recurrences, one of two states, and a convolution of its own name."""

    def __init__(self, d_model: int, d_inner: int, op: Recurrence) -> None:
        super().__init__()
        self.op, self.v = op, nn.Linear(d_model, d_inner)
        self.decay, self.gain = nn.Linear(d_model, d_inner), nn.Parameter(torch.ones(d_inner))
        self.taps = nn.Parameter(torch.randn(d_inner, 3))

    def forward(self, x: Tensor, past: Past = WHOLE) -> Tensor:
        v = past.conv(self.v(x), self.taps, None, silu=False, state="inputs_v")
        shifted = past.recur(SHIFT, {"v": v}, state=("previous", "second"))
        decay = torch.sigmoid(self.decay(x))
        return past.recur(
            self.op, {"v": v + shifted, "decay": decay}, {"gain": self.gain}, state="sum"
        )

    def cache_shapes(self, n_tokens: int) -> dict[str, tuple[int, ...]]:
        n = len(self.gain)
        return {"inputs_v": (2, n), "previous": (n,), "second": (n,), "sum": (n,)}


@pytest.fixture(params=["plain", "stepped", "apart"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    op = {"plain": PLAIN, "stepped": STEPPED, "apart": APART}[request.param]
    torch.manual_seed(0)
    made = build_model(model_config(init_std=0.2), VOCAB)
    for block in made.blocks:
        block.mixer.ssm = Mixer(16, 32, op)  # type: ignore[union-attr, assignment]
    return made.eval()


def tokens_of(n_rows: int, n_tokens: int) -> Tensor:
    return torch.randint(0, VOCAB, (n_rows, n_tokens), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[], [5, 7], [1, 19], [20]])
def test_any_cut_equals_the_whole(model: LanguageModel, sizes: list[int]) -> None:
    tokens = tokens_of(3, 20)
    cache = model.cache(3, 20)
    cuts = sizes + [1] * (20 - sum(sizes))
    steps = torch.cat([model.features(part, cache) for part in tokens.split(cuts, 1)], 1)
    torch.testing.assert_close(steps, model.features(tokens), rtol=0, atol=1e-5)


@torch.no_grad()
def test_rows_of_unequal_length_are_what_they_are_alone(model: LanguageModel) -> None:
    tokens, lengths = tokens_of(4, 12), torch.tensor([9, 1, 4, 6])
    cache = model.cache(4, 12)
    for first, last in ((0, 4), (4, 9)):
        model.features(tokens[:, first:last], cache, (lengths - first).clamp(0, last - first))
    new = torch.stack([model.features(tokens[:, t : t + 1], cache)[:, 0] for t in (9, 10, 11)], 1)
    for row, n in enumerate(lengths.tolist()):
        alone = torch.cat([tokens[row, :n], tokens[row, 9:]])[None]
        torch.testing.assert_close(new[row], model.features(alone)[0, n:], rtol=0, atol=1e-5)


@torch.no_grad()
def test_prompts_of_unequal_length_generate_what_they_would_alone(model: LanguageModel) -> None:
    tokens, mask = tokens_of(3, 8), torch.ones(3, 8, dtype=torch.long)
    mask[1, :5] = 0
    mask[2, 6:] = 0
    made = model.generate(tokens, mask, max_new_tokens=9, chunk_size=3)[:, 8:]
    for row in range(3):
        alone = tokens[row][mask[row].bool()][None]
        assert torch.equal(made[row], model.generate(alone, max_new_tokens=9)[0, alone.shape[1] :])


def test_states_are_kept_in_the_precision_of_sums(model: LanguageModel) -> None:
    buffers = model.bfloat16().cache(2, 5).layers[0].ssm.buffers  # type: ignore[attr-defined]
    kept = {name: buffer.dtype for name, buffer in buffers.items()}
    exact = dict.fromkeys(("previous", "second", "sum"), torch.float32)
    assert kept == {"inputs_v": torch.bfloat16, **exact}
    assert kept_dtype("h", torch.float64) == torch.float64


def test_probes_watch_what_any_mixer_asks_for(model: LanguageModel) -> None:
    layers = watch(model, tokens_of(2, 6))
    for layer in layers:
        seen = layer.recurrences["ssm"]
        assert set(seen) == {"sum", ("previous", "second")}
        assert torch.equal(seen["sum"].y, layer.outputs["ssm"])
        assert set(seen["sum"].tokens) == {"v", "decay"} and set(seen["sum"].fixed) == {"gain"}
        assert layer.ssm is None, "no selective scan"


@torch.no_grad()
def test_what_cache_shapes_does_not_name_is_refused_by_name(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shapes(self: Mixer, n_tokens: int) -> Mapping[str, tuple[int, ...]]:
        return {"inputs_v": (2, 32), "h": (32,)}

    monkeypatch.setattr(Mixer, "cache_shapes", shapes)
    with pytest.raises(UserError, match=r"Mixer asks its past for 'previous'.*inputs_v, h"):
        model.generate(tokens_of(1, 3), max_new_tokens=2)


def test_mamba_goes_through_the_same_seam() -> None:
    """Its scan is one operation; the step's softplus closes where padding stands."""
    torch.manual_seed(0)
    mamba = ssms.build(ssms.spec("mamba1"), 8, 16)
    asked: list[dict[str, float] | None] = []

    class Spy:
        conv = staticmethod(WHOLE.conv)

        def recur(self, op: Recurrence, *rest: Any, state: Any = "h") -> Tensor:
            asked.append(dict(op.no_step or {}))
            assert state == "h"
            return WHOLE.recur(op, *rest)

    x = torch.randn(2, 5, 8)
    assert torch.equal(mamba(x, Spy()), mamba(x))
    assert [set(found or {}) for found in asked] == [{"dt"}]
    closed = torch.tensor((asked[0] or {})["dt"], dtype=torch.bfloat16)
    assert softplus(closed) == 0
