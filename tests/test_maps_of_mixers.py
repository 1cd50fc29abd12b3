"""What the recurrences of today see of earlier tokens, for the probes: their implicit attention."""

import pytest
import torch
from examples import experiment

from hymba_lab.model import build_model
from hymba_lab.probes.maps import recurrence_map, summaries
from hymba_lab.probes.trace import watch

MIXERS = {
    "mamba2": {"d_head": 4, "d_state": 3},
    "gated_delta": {"d_head": 4},
    "kimi_delta": {"d_head": 4},
    "gla": {"d_head": 4},
}


@pytest.mark.parametrize("name", MIXERS)
def test_the_map_times_the_values_is_what_came_out(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(experiment(ssm={"name": name, **MIXERS[name]}).model, 16)
    tokens = torch.randint(0, 16, (2, 10), generator=torch.Generator().manual_seed(1))
    layer = watch(model, tokens)[0]
    (seen,) = layer.recurrences["ssm"].values()
    assert seen.op.values is not None
    alpha = recurrence_map(seen)
    y = torch.einsum("bhts,bshv->bthv", alpha, seen.tokens[seen.op.values])
    torch.testing.assert_close(y, seen.y, rtol=1e-4, atol=1e-5)
    assert alpha.triu(1).abs().max() == 0
    torch.testing.assert_close(summaries(layer, n_meta=0)["ssm"].shares.sum(), torch.tensor(1.0))
