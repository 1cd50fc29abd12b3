"""Every registry of components; a slot that a file may leave out has its entry here."""

from typing import Any

from hymba_lab.registry import Registry, Spec

ABSENT = {"short_conv": "none", "topology": "sa_m"}
"""What a file need not name, because it came later, and what it then is."""


def all_registries() -> dict[str, Registry[Any]]:
    """Return every registry by its path; imports torch."""
    from hymba_lab.components import (  # noqa: F401 - an entry in a file of its own registers itself
        attention,
        fusion,
        gated_delta,
        gla,
        heads,
        kimi_delta,
        kv_sharing,
        mamba2,
        mamba3,
        meta_tokens,
        mlp,
        order,
        placement,
        short_conv,
        ssm,
        topology,
    )
    from hymba_lab.data.source import datasets
    from hymba_lab.optim import muon  # noqa: F401 - registers itself
    from hymba_lab.optim.optimizers import optimizers
    from hymba_lab.optim.schedules import schedules

    found: list[Registry[Any]] = [
        heads.heads, order.orders, fusion.fusions, meta_tokens.meta_tokens, placement.placements,
        kv_sharing.kv_sharings, attention.attentions, ssm.ssms, mlp.mlps,
        short_conv.short_convs, topology.topologies,
        datasets, optimizers, schedules,
    ]  # fmt: skip
    return {registry.path: registry for registry in found}


def absent(key: str) -> Spec:
    """Return what a slot is that a file does not name."""
    return all_registries()[f"model.{key}"].spec(ABSENT[key])
