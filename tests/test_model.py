"""The language model: laws of every variant, what its parents are, how it starts."""

import copy
from typing import Any

import pytest
import torch
from examples import model_config
from torch import Tensor, nn

from hymba_lab.errors import ConfigError
from hymba_lab.model import LanguageModel, build_model

VOCAB, N_TOKENS = 13, 12
ATTENTION = {"name": "attention_only", "n_heads": 4, "n_kv_heads": 2, "d_head": 6}
SSM = {"name": "ssm_only"}
LEARNED = {"name": "learned", "n_meta": 3}
NONE = {"name": "none"}

VARIANTS: dict[str, dict[str, Any]] = {
    "hymba": {
        "n_layers": 6,
        "meta_tokens": LEARNED,
        "placement": {"name": "first_middle_last", "window": 4},
        "kv_sharing": {"name": "adjacent"},
    },
    "concat": {"fusion": {"name": "concat"}, "tie_embeddings": False},
    "gate": {"fusion": {"name": "gate"}, "placement": {"name": "all_window", "window": 3}},
    "unequal": {
        "fusion": {"name": "concat"},
        "heads": {"name": "hybrid", "n_heads": 4, "d_head": 6, "d_head_v": 2},
    },
    "samba": {"n_layers": 4, "order": {"name": "sequential"}},
    "mixed": {
        "n_layers": 5,
        "order": {"name": "interleaved", "pattern": "saap"},
        "kv_sharing": {"name": "adjacent", "full": True, "size": 3},
        "meta_tokens": LEARNED,
    },
    "attention": {"heads": ATTENTION},
    "ssm": {"heads": SSM, "mlp": NONE},
    "no rope": {"attention": {"name": "softmax", "rope_theta": None}, "mlp": NONE},
    "relu2": {
        "mlp": {"name": "relu2", "d_ff": 20},
        "ssm": {"name": "mamba1", "inner_norms": False},
    },
}
every_variant = pytest.mark.parametrize("variant", list(VARIANTS))


def model_of(seed: int = 0, **model: Any) -> LanguageModel:
    torch.manual_seed(seed)
    return build_model(model_config(**model), VOCAB)


def tokens_of(n_rows: int = 1, n_tokens: int = N_TOKENS) -> Tensor:
    rng = torch.Generator().manual_seed(3)
    return torch.randint(0, VOCAB, (n_rows, n_tokens), generator=rng)


# --- every variant


@every_variant
def test_logits_have_the_shape_of_the_text(variant: str) -> None:
    model = model_of(**VARIANTS[variant])
    tokens = tokens_of(n_rows=2)
    logits, features = model(tokens), model.features(tokens)
    assert logits.shape == (2, N_TOKENS, VOCAB) and features.shape == (2, N_TOKENS, 16)
    assert logits.isfinite().all()
    torch.testing.assert_close(model.logits(features), logits)
    torch.testing.assert_close(model.logits(features[0, 3]), logits[0, 3])
    assert model(tokens[:, :1]).shape == (2, 1, VOCAB)


@every_variant
def test_a_token_changes_nothing_before_it(variant: str) -> None:
    model = model_of(**VARIANTS[variant])
    tokens = tokens_of()
    for changed in (0, 5, N_TOKENS - 1):
        other = tokens.clone()
        other[:, changed] = (other[:, changed] + 1) % VOCAB
        difference = (model(tokens) - model(other)).abs().amax(dim=(0, 2))
        assert difference[:changed].le(1e-6).all()
        assert difference[changed] > 1e-4


@every_variant
def test_rows_do_not_see_each_other(variant: str) -> None:
    model = model_of(**VARIANTS[variant])
    tokens = tokens_of(n_rows=3)
    alone = torch.cat([model(row) for row in tokens.split(1)])
    torch.testing.assert_close(model(tokens), alone, rtol=1e-4, atol=1e-5)


@every_variant
def test_the_gradient_reaches_every_parameter(variant: str) -> None:
    model = model_of(**VARIANTS[variant])
    logits = model(tokens_of(n_rows=2))
    (logits * torch.randn_like(logits)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} takes no part"
        assert parameter.grad.abs().sum() > 0, f"{name} has no influence"


@every_variant
def test_the_same_seed_gives_the_same_model(variant: str) -> None:
    first, same, other = (model_of(seed, **VARIANTS[variant]) for seed in (0, 0, 1))
    tokens = tokens_of()
    assert torch.equal(first(tokens), same(tokens))
    assert not torch.equal(first(tokens), other(tokens))
    other.load_state_dict(first.state_dict())
    assert torch.equal(first(tokens), other(tokens))
    assert torch.equal(first(tokens), copy.deepcopy(first)(tokens))


# --- parents and order


def parts(block: nn.Module) -> set[str]:
    return {name for name, _ in block.mixer.named_children()}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({}, ["parallel", "parallel"]),
        ({"heads": ATTENTION}, ["attention", "attention"]),
        ({"heads": SSM}, ["ssm", "ssm"]),
        (VARIANTS["samba"], ["ssm", "attention", "ssm", "attention"]),
        (VARIANTS["mixed"], ["ssm", "attention", "attention", "parallel", "ssm"]),
    ],
)
def test_a_layer_holds_what_its_kind_says(options: dict[str, Any], kinds: list[str]) -> None:
    model = model_of(**options)
    held = {
        "parallel": {"attention", "ssm", "fusion"},
        "attention": {"attention", "out"},
        "ssm": {"ssm", "out"},
    }
    assert [layer.kind for layer in model.plan] == kinds
    assert [parts(block) for block in model.blocks] == [held[kind] for kind in kinds]


def test_a_parent_is_the_same_block_around_one_branch() -> None:
    """The attention layers of a Samba are those of the Transformer of the same widths."""
    wide = {**ATTENTION, "d_head_v": 8}
    hybrid = {"name": "hybrid", "n_heads": 4, "n_kv_heads": 2, "d_head": 6}
    samba = model_of(heads=hybrid, order={"name": "sequential"})
    transformer = model_of(heads=wide, n_layers=1)
    transformer.blocks[0].load_state_dict(samba.blocks[1].state_dict())
    x = torch.randn(1, 5, 16)
    assert torch.equal(transformer.blocks[0](x)[0], samba.blocks[1](x)[0])


def test_no_mlp_leaves_only_the_mixer() -> None:
    model = model_of(mlp=NONE)
    names = {name.split(".")[0] for name, _ in model.blocks[0].named_parameters()}
    assert names == {"norm1", "mixer"}


# --- head, vocabulary, start


def test_a_tied_head_is_the_embedding() -> None:
    tied, free = model_of(tie_embeddings=True), model_of(tie_embeddings=False)
    shape = (VOCAB, 16)
    assert [p.shape for p in tied.parameters()].count(shape) == 1
    assert [p.shape for p in free.parameters()].count(shape) == 2
    assert tied.head is None and free.head is not None
    x = torch.randn(2, 16)
    torch.testing.assert_close(tied.logits(x), x @ tied.embedding.weight.T)
    torch.testing.assert_close(free.logits(x), x @ free.head.weight.T)


def test_a_given_vocabulary_wins_over_the_datas() -> None:
    assert build_model(model_config(vocab=40), VOCAB)(tokens_of()).shape[-1] == 40
    assert build_model(model_config(), VOCAB).embedding.weight.shape == (VOCAB, 16)


def test_the_start_is_what_the_configuration_says() -> None:
    wide = {"d_model": 64, "mlp": {"name": "swiglu", "d_ff": 256}, "init_std": 0.07}
    model = model_of(**wide)
    down = model.blocks[0].mlp.down.weight
    assert down.std().item() == pytest.approx(0.07, rel=0.05)
    assert model.embedding.weight.std().item() == pytest.approx(0.07, rel=0.1)
    loud = model_of(**wide, embedding_std=1.0)
    assert loud.embedding.weight.std().item() == pytest.approx(1.0, rel=0.1)
    assert loud.blocks[0].mlp.down.weight.std().item() == pytest.approx(0.07, rel=0.05)


def test_the_ssm_starts_as_mamba_does() -> None:
    ssm = model_of(d_model=64).blocks[0].mixer.ssm
    torch.testing.assert_close(ssm.A_log.exp(), torch.arange(1.0, 5.0).expand(128, 4))
    assert torch.equal(ssm.D, torch.ones(128))
    steps = nn.functional.softplus(ssm.dt.bias)
    assert steps.min() >= 0.9e-3 and steps.max() <= 1.1e-1 and steps.std() > 0


@pytest.mark.parametrize(
    ("options", "path", "said"),
    [
        (
            {"heads": {"name": "hybrid", "n_heads": 4, "d_head": 6, "d_head_v": 3}},
            "model.fusion",
            "12",
        ),
        ({"heads": {"name": "hybrid", "n_heads": 5, "d_head": 6}}, "model.heads", "n_heads = 5"),
        ({"heads": {**ATTENTION, "d_head": 7}}, "model.heads", "d_head = 7"),
        (
            {
                "heads": {**ATTENTION, "d_head": 2},
                "attention": {"name": "softmax", "rope_scale": 7.0},
            },
            "model.attention",
            "rope_scale = 7.0",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], path: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        model_of(**options)
    assert caught.value.path == path
