"""One trained run to the lines of every probe."""

from collections.abc import Iterator
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from hymba_lab.cost import measure_costs
from hymba_lab.data.source import Batch, Mixture
from hymba_lab.probes.branches import output_sizes, removals, scales, stream_sizes
from hymba_lab.probes.columns import COLUMNS
from hymba_lab.probes.maps import CATEGORIES, MapSummary, receptive_field, summaries
from hymba_lab.probes.needle import needle_lines
from hymba_lab.probes.runs import Trained
from hymba_lab.probes.trace import watch

Lines = dict[str, list[dict[str, Any]]]

ROWS = 16  # sequences of each source that maps are read from
MOST_TOKENS = 256  # of each; the maps of an SSM take T^2 values per channel


def probe(run: Trained) -> Lines:
    """Return probe -> lines (dicts of its `COLUMNS`)."""
    found: Lines = {name: [] for name in COLUMNS}
    cache = measure_costs(run.config.model, run.mixture.vocab, run.config.training.seq_len)
    for label, tokens in samples(run.mixture):
        for name, lines in _maps(run, tokens, cache.cache_bytes).items():
            found[name] += [{"data": label, **line} for line in lines]
    found["magnitudes"] += [{"data": "", **line} for line in scales(run.model)]
    found["removal"] += removals(run.model, run.mixture)
    found["needle"] += needle_lines(run.model, run.config, run.mixture)
    return found


def samples(mixture: Mixture) -> Iterator[tuple[str, Tensor]]:
    """Yield label and tokens (ROWS or fewer, MOST_TOKENS or fewer) of each source's validation.

    Rows are taken evenly out of all of it, so that all difficulties and corpora are among them. Of
    packed documents, which do not see each other, a row gives its longest.
    """
    found: dict[str, list[Tensor]] = {label: [] for label in mixture.sources}
    for label, batch in mixture.val_batches():
        found[label] += _pieces(batch)
    for label, pieces in found.items():
        n_tokens = min(MOST_TOKENS, max(map(len, pieces)))
        whole = [piece[:n_tokens] for piece in pieces if len(piece) >= n_tokens]
        chosen = torch.linspace(0, len(whole) - 1, min(len(whole), ROWS)).round().long()
        yield label, torch.stack([whole[number] for number in chosen.tolist()])


def _pieces(batch: Batch) -> list[Tensor]:
    """Return what each row holds of one document, (T,) or shorter."""
    if batch.starts is None:
        return list(batch.tokens)
    pieces = []
    for tokens, starts in zip(batch.tokens, batch.starts, strict=True):
        edges = [0, *starts.nonzero().flatten().tolist(), len(tokens)]
        first, last = max(pairwise(edges), key=lambda piece: piece[1] - piece[0])
        pieces.append(tokens[first:last])
    return pieces


def _maps(run: Trained, tokens: Tensor, cache_bytes: int) -> Lines:
    """Return the lines of one forward pass.

    In the receptive field a layer with both branches counts with their mean, as the mean fusion
    weighs them (the paper does not say how it counts the heads of a hybrid).
    """
    found: Lines = {name: [] for name in COLUMNS}
    layers = watch(run.model, tokens)
    n_meta = run.model.meta.n_meta if run.model.meta else 0
    reach = []
    for index, layer in enumerate(layers):
        known = summaries(layer, n_meta)
        for branch, summary in known.items():
            for name, lines in _of_branch(summary, branch).items():
                found[name] += [{"layer": index, "branch": branch, **line} for line in lines]
        if known:
            reach.append(fmean(summary.distance for summary in known.values()))
    if len(reach) == len(layers):
        erf = receptive_field(reach)
        facts = {"tokens": tokens.shape[1], "cache_bytes": cache_bytes}
        found["erf"].append({**facts, "value": erf})
    found["magnitudes"] += [*output_sizes(run.model, layers), *stream_sizes(layers)]
    return found


def _of_branch(summary: MapSummary, branch: str) -> Lines:
    """Return the lines of one map; a head is numbered only where there are heads."""
    mass, entropies = [], []
    for head, (shares, entropy) in enumerate(
        zip(summary.shares.tolist(), summary.entropy.tolist(), strict=True)
    ):
        named: dict[str, Any] = {"head": head if branch == "attention" else ""}
        mass += [
            {**named, "category": category, "value": share}
            for category, share in zip(CATEGORIES, shares, strict=False)
        ]
        entropies.append({**named, "value": entropy, "uniform": summary.uniform})
    on_meta = enumerate(summary.on_meta.tolist() if branch == "attention" else [])
    return {
        "mass": mass,
        "entropy": entropies,
        "distance": [{"value": summary.distance}],
        "meta_attention": [{"token": token, "value": share} for token, share in on_meta],
    }
