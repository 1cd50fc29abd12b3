"""Axis: in which order SSM, attention and MLP of one layer follow each other (Falcon-H1).

An entry returns one word; the block of that name is in `model/block.py`. The letters are those of
arXiv:2507.22448: S = SSM, A = attention, M = MLP; `_` stands between what follows each other.
"""

from typing import Literal

from hymba_lab.registry import Registry

Topology = Literal["sa_m", "sam", "s_a_m"]

topologies: Registry[Topology] = Registry("model.topology")


@topologies.register("sa_m")
def sa_m() -> Topology:
    """Both branches side by side, then the MLP (Hymba, Falcon-H1)."""
    return "sa_m"


@topologies.register("sam")
def sam() -> Topology:
    """All three side by side: y = x + mixer(n) + mlp(n), n = norm(x)."""
    return "sam"


@topologies.register("s_a_m")
def s_a_m() -> Topology:
    """One after another inside the layer, each with its own norm and residual."""
    return "s_a_m"
