"""Published hybrids as YAML: parameters as printed, and those of an independent implementation."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hymba_lab.config import load_config
from hymba_lab.cost import count, meta_model
from hymba_lab.model import plan_layers

FOLDER = Path(__file__).parents[1] / "experiments" / "published"
PATHS = sorted(FOLDER.glob("*.yaml"))


def params(name: str) -> int:
    config = load_config(FOLDER / f"{name}.yaml")
    return count(meta_model(config.model, 1))


def theirs(model: str, config: str, **options: Any) -> int:
    """Parameters of a model of transformers, built without memory."""
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        built = getattr(transformers, model)(getattr(transformers, config)(**options))
    return sum(p.numel() for p in built.parameters())


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_published_hybrid_loads_and_plans(path: Path) -> None:
    config = load_config(path)
    assert len(plan_layers(config.model)) == config.model.n_layers and config.n_steps >= 1


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_page_names_its_parameters(path: Path) -> None:
    rows = (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    (row,) = (row for row in rows if row.startswith(f"| `{path.name}` "))
    assert f"{params(path.stem):,}" in row


def test_falcon_h1() -> None:
    printed = 521_411_104  # "0.5B" of arXiv:2507.22448, the released weights exactly
    assert params("falcon_h1_0p5b") == printed
    shape = {
        "vocab_size": 32784, "tie_word_embeddings": False, "hidden_size": 1024,
        "intermediate_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 64, "mamba_d_ssm": 1536, "mamba_n_heads": 24,
        "mamba_d_head": 64, "mamba_n_groups": 1, "mamba_d_state": 128, "mamba_d_conv": 4,
        "mamba_rms_norm": False, "mamba_conv_bias": True, "mamba_proj_bias": False,
        "projectors_bias": False, "attention_bias": False, "mlp_bias": False,
    }  # fmt: skip
    assert theirs("FalconH1ForCausalLM", "FalconH1Config", **shape) == printed


def test_samba() -> None:
    """Printed: 421M. By hand: an MLP in twelve layers, six of attention, six of Mamba."""
    d, f, inner, rank, n = 1536, 4096, 3072, 96, 16
    mamba = d * 2 * inner + inner * 5 + inner * (rank + 2 * n) + rank * inner + inner
    mamba += inner * n + inner + inner * d
    by_hand = 12 * (3 * d * f + 2 * d) + 6 * 4 * d * d + 6 * mamba + 32000 * d + d
    assert params("samba_421m") == by_hand
    assert abs(by_hand / 421e6 - 1) < 0.005


def test_jamba() -> None:
    """One expert in ours; with the other fifteen and their routers it is the 52B of the paper."""
    found = params("jamba_dense")
    shape = {
        "vocab_size": 65536, "tie_word_embeddings": False, "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "attn_layer_period": 8, "attn_layer_offset": 4,
        "num_experts": 1, "num_experts_per_tok": 1, "mamba_d_state": 16, "mamba_d_conv": 4,
        "mamba_expand": 2, "mamba_dt_rank": 256, "use_mamba_kernels": False,
    }  # fmt: skip
    assert found == theirs("JambaForCausalLM", "JambaConfig", **shape)
    whole = found + 16 * (15 * 3 * 4096 * 14336 + 16 * 4096)
    assert abs(whole / 52e9 - 1) < 0.01


def test_qwen3_next() -> None:
    """A dense MLP in ours; with the experts in its place it is the released 80B."""
    found = params("qwen3_next_dense")
    shape = {
        "vocab_size": 151936, "tie_word_embeddings": False, "hidden_size": 2048,
        "intermediate_size": 5632, "num_hidden_layers": 48, "num_attention_heads": 16,
        "num_key_value_heads": 2, "head_dim": 256, "linear_num_key_heads": 16,
        "linear_num_value_heads": 32, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4, "mlp_only_layers": list(range(48)),
    }  # fmt: skip
    assert found == theirs("Qwen3NextForCausalLM", "Qwen3NextConfig", **shape)
    expert, d = 3 * 2048 * 512, 2048
    whole = found + 48 * (513 * expert + 512 * d + d - 3 * d * 5632)
    assert abs(whole / 80e9 - 1) < 0.01


def test_hymba() -> None:
    assert params("hymba_1p5b") == 1_522_797_824
