"""Cache against the length of the sequence, by the paper's accounting (figure 2)."""

from collections.abc import Mapping, Sequence

import pandas as pd

from hymba_lab.config import ModelConfig
from hymba_lab.cost.cache import paper_bytes
from hymba_lab.cost.model import meta_model
from hymba_lab.cost.peers import Peer

LENGTHS = tuple(range(1000, 16_001, 1000))  # tokens; the paper's figure has 1K to 16K


def cache_by_length(
    hybrids: Mapping[str, ModelConfig], peers: Sequence[Peer], lengths: Sequence[int] = LENGTHS
) -> pd.DataFrame:
    """Return model, kind (hybrid or transformer), tokens, cache_bytes (FP16, one sequence)."""
    lines = [(peer.name, "transformer", n, peer.cache_bytes(n)) for peer in peers for n in lengths]
    for name, config in hybrids.items():
        model = meta_model(config, config.vocab or 1)  # the vocabulary keeps nothing
        lines += [(name, "hybrid", n, round(paper_bytes(config, model, n))) for n in lengths]
    return pd.DataFrame(lines, columns=["model", "kind", "tokens", "cache_bytes"])
