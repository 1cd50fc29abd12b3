"""Example values for the tests: an option set for every entry, a small model for every axis."""

import inspect
from inspect import Parameter
from typing import Any

import pytest

from hymba_lab.config import Config, ModelConfig, all_registries, from_resolved
from hymba_lab.registry import Spec

EXAMPLES: dict[tuple[str, str], dict[str, Any]] = {
    ("model.heads", "hybrid"): {"n_heads": 4, "d_head": 4},
    ("model.heads", "attention_only"): {"n_heads": 4, "d_head": 4},
    ("model.meta_tokens", "learned"): {"n_meta": 3},
    ("model.mlp", "swiglu"): {"d_ff": 12},
    ("model.mlp", "relu2"): {"d_ff": 12},
    ("model.ssm", "mamba2"): {"d_head": 4, "d_state": 4},
    ("model.ssm", "mamba3"): {"d_head": 4, "d_state": 4},
    ("model.ssm", "gated_delta"): {"d_head": 4},
    ("model.ssm", "kimi_delta"): {"d_head": 4},
    ("model.ssm", "gla"): {"d_head": 4, "gate_rank": 3, "tau": 1.0},
    ("model.order", "pattern"): {"pattern": "P"},
    ("model.order", "interleaved"): {"pattern": "sap"},
    ("model.placement", "all_window"): {"window": 4},
    ("model.placement", "first_middle_last"): {"window": 4},
    ("model.placement", "every"): {"window": 4, "period": 3},
    ("model.placement", "explicit"): {"window": 4, "full": [0]},
    ("model.kv_sharing", "explicit"): {"groups": [[0]]},
    ("data", "mqar"): {"rows": 2, "n_pairs": [1]},
    ("data", "induction"): {"rows": 2},
    ("data", "needle"): {"rows": 2, "depths": [0.5]},
    ("data", "selective_copying"): {"rows": 2, "n_data": [3]},
    ("data", "stdlib"): {"rows": 2},
    ("data", "files"): {"rows": 2, "paths": ["*.txt"]},
    ("data", "shards"): {"rows": 2, "train": "a.npy", "val": "b.npy", "vocab": 9},
    ("data", "corpora"): {"rows": 2, "corpora": {"web": {"folder": "tokens/web"}}},
    ("optimizer", "adamw"): {"lr": 1e-3},
}

VARIANTS: dict[tuple[str, str], dict[str, Any]] = {
    ("model.fusion", "concat:bare"): {"norms": False},
    ("model.attention", "softmax:sink"): {"sink": "learned"},
    ("model.attention", "softmax:off_by_one"): {"sink": "off_by_one", "rope_theta": None},
    ("model.attention", "softmax:gate"): {"output_gate": "elementwise"},
    ("model.attention", "softmax:value_residual"): {"value_residual": True},
    ("model.attention", "softmax:head_gate"): {"output_gate": "per_head", "rope_layers": "full"},
    ("model.attention", "softmax:normed"): {"qk_norm": True, "rope_share": 0.5},
    ("model.attention", "softmax:conv"): {"qkv_conv": 3},
    ("model.ssm", "mamba2:groups"): {"d_head": 4, "d_state": 3, "n_groups": 2, "norm": False},
    ("model.ssm", "mamba3:groups"): {"d_head": 4, "d_state": 5, "n_groups": 2, "rope_share": 1.0},
    ("model.ssm", "gated_delta:shared"): {"d_head": 4, "expand_v": 1, "heads_per_key": 2},
}
"""Options of an entry, `entry:label`, under which the contract is tested as well."""

REGISTRIES = all_registries()


def spec_of(path: str, name: str) -> Spec:
    """A spec with example values; says what is missing from the table."""
    registry, given = REGISTRIES[path], EXAMPLES.get((path, name), {})
    if (path, name) in VARIANTS:
        name, given = name.partition(":")[0], VARIANTS[path, name]
    parameters = inspect.signature(registry.entry(name)).parameters
    needed = {key for key in registry.options(name) if parameters[key].default is Parameter.empty}
    if lacking := sorted(needed - set(given)):
        pytest.fail(
            f"{path}: {name} has options without a default: give {', '.join(lacking)} an example "
            f"value under ({path!r}, {name!r}) in EXAMPLES of {__file__}."
        )
    return registry.spec(name, **given)


def experiment(**model: Any) -> Config:
    """A tiny experiment; arguments replace parts of its model."""
    architecture = {
        "d_model": 16,
        "n_layers": 2,
        "heads": {"name": "hybrid", "n_heads": 4, "n_kv_heads": 2, "d_head": 6},
        "order": {"name": "parallel"},
        "fusion": {"name": "mean"},
        "meta_tokens": {"name": "none"},
        "placement": {"name": "all_full"},
        "kv_sharing": {"name": "none"},
        "attention": {"name": "softmax"},
        "ssm": {"name": "mamba1", "d_state": 4},
        "mlp": {"name": "swiglu", "d_ff": 24},
    }
    return from_resolved(
        {
            "name": "example",
            "scale": "tiny",
            "model": {**architecture, **model},
            "data": {"recall": {"name": "induction", "rows": 1}},
            "optimizer": {"name": "adamw", "lr": 1e-3},
            "schedule": {"name": "constant"},
            "training": {"seq_len": 8, "tokens": 8, "val_every": 1},
        }
    )


def model_config(**model: Any) -> ModelConfig:
    """The model of `experiment`."""
    return experiment(**model).model
