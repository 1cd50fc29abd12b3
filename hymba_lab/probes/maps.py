"""Attention maps, the SSM's implicit attention maps, and what can be read off both.

A map M (B, h, T, S) has a row per query that sums to 1: of attention, the softmax's; of an SSM,
|alpha| over its row's sum, where (implicit attention, arXiv:2403.01570) per channel d

    y_t = sum_{s <= t} alpha[t, s] u_s + D u_t,
    alpha[t, s] = sum_n C[t, n] exp(A[d, n] (Delta_t - Delta_s)) delta_s B[s, n],
    delta = softplus(dt + bias),  Delta_t = delta_1 + ... + delta_t;

the skip D and the gate SiLU(z) are no part of it. Of any other recurrence that is linear in its
values and treats their channels alike (`Recurrence.values`), alpha[t, s] is what one unit of value
at token s adds to y at token t. Heads h: attention heads, channels of the SSM, or a recurrence's.
Only rows of text tokens are read; their columns hold the meta tokens first. Beside a sink a row of
attention sums to less than 1: the rest is the sink's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hymba_lab.ops.masks import visible
from hymba_lab.ops.scan_torch import softplus
from hymba_lab.probes.trace import AttentionSeen, LayerSeen, RecurrenceSeen, ScanSeen

CATEGORIES = ("Meta", "BOS", "Self", "Cross", "Sink")
_AT_ONCE = 2**18  # values of an SSM's maps computed together, so that they stay in a core's cache


@dataclass(frozen=True)
class MapSummary:
    """Means over rows and queries of one branch; h heads (one for an SSM, its channels' mean)."""

    shares: Tensor
    """(h, 4): share of a row on Meta, BOS, Self, Cross; (h, 5) with a sink's."""
    entropy: Tensor
    """(h,) [nats]: of how a row is distributed over tokens, beside a sink as well."""
    uniform: float
    """Entropy of a uniform map over the visible tokens [nats]."""
    distance: float
    """How far the last token looks back [tokens of text]."""
    on_meta: Tensor
    """(n_meta,): share of a row on each meta token, the mean over heads."""


def attention_map(seen: AttentionSeen) -> Tensor:
    """Return softmax(q k^T / sqrt(P) over the visible keys), (B, H, T, S).

    Beside a sink a row sums to less than 1: what the sink takes is not of any token.
    """
    q, k = seen.q, seen.k.repeat_interleave(seen.q.shape[1] // seen.k.shape[1], dim=1)
    scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
    scores = scores.masked_fill(~_sees(seen), -torch.inf)
    weights: Tensor = scores.softmax(-1)
    if seen.sink is not None:
        lse = scores.logsumexp(-1, keepdim=True)
        weights = weights * torch.sigmoid(lse - seen.sink[:, None, None])
    return weights


@torch.no_grad()
def scan_map(seen: ScanSeen, channels: slice = slice(None)) -> Tensor:
    """Return alpha (B, d, T, T) of the chosen channels, signed and not normalised."""
    delta = softplus(seen.dt + seen.dt_bias)[..., channels].transpose(1, 2)  # (B, d, T)
    total = delta.cumsum(-1)
    since = total.unsqueeze(3) - total.unsqueeze(2)  # (B, d, T, S), 0 or more where s <= t
    causal = torch.ones(since.shape[-2:], dtype=torch.bool, device=since.device).tril()
    since = since.masked_fill(~causal, torch.inf)  # exp(A inf) = 0
    alpha, kept = torch.zeros_like(since), torch.empty_like(since)
    for n, a in enumerate(seen.A[channels].unbind(1)):
        pair = seen.C[:, :, n].unsqueeze(2) * seen.B[:, :, n].unsqueeze(1)  # (B, T, S)
        torch.mul(since, a[:, None, None], out=kept)
        alpha.addcmul_(pair.unsqueeze(1), kept.exp_())
    return alpha.mul_(delta.unsqueeze(2))


@torch.no_grad()
def recurrence_map(seen: RecurrenceSeen) -> Tensor:
    """Return alpha (B, H, T, T) of an operation that names its `values`, signed.

    Its T channels of value are given a unit at one token each, so one scan answers for all.
    """
    assert seen.op.values is not None
    values = seen.tokens[seen.op.values]
    n_rows, n_tokens, n_heads, _ = values.shape
    units = torch.eye(n_tokens, dtype=values.dtype, device=values.device)[:, None, :]
    tokens = {**seen.tokens, seen.op.values: units.expand(n_rows, n_tokens, n_heads, n_tokens)}
    y, _ = seen.op.scan(**tokens, **seen.fixed, state=None)
    return y.transpose(1, 2)


@torch.no_grad()
def summaries(layer: LayerSeen, n_meta: int) -> dict[str, MapSummary]:
    """Return branch -> summary, for the branches whose maps are known."""
    found = {}
    if layer.attention is not None:
        sees = _sees(layer.attention)
        sink = layer.attention.sink is not None
        found["attention"] = _summary([attention_map(layer.attention)], sees, n_meta, sink)
    for branch, recurrences in layer.recurrences.items():
        linear = [seen for seen in recurrences.values() if seen.op.values is not None]
        if len(linear) == 1 and branch not in found:
            alpha = recurrence_map(linear[0]).abs()
            rows = alpha / alpha.sum(-1, keepdim=True).clamp(min=1e-30)
            sees = visible(alpha.shape[2], alpha.shape[2], None, 0, 0, alpha.device)
            summary = _summary([rows], sees, n_meta)
            found[branch] = _mean_head(summary) if branch == "ssm" else summary
    if layer.ssm is not None:
        n_tokens = layer.ssm.u.shape[1]
        sees = visible(n_tokens, n_tokens, None, 0, 0, layer.ssm.u.device)
        found["ssm"] = _mean_head(_summary(_scan_rows(layer.ssm), sees, n_meta))
    return found


def receptive_field(distances: Sequence[float]) -> float:
    """Return ERF = sum_n 2 d_n (N - n + 1) / (N (N + 1)) [tokens], n = 1..N from the first layer.

    d_n = mean over heads of sum_s M(S, s) (S - s), the last token's mean distance (figure 11 and
    appendix B of arXiv:2411.13676). Meta tokens and a sink are no part of the text, so what goes to
    them adds no distance.
    """
    n_layers = len(distances)
    weighted = sum(2 * d * (n_layers - n) for n, d in enumerate(distances))
    return weighted / (n_layers * (n_layers + 1))


def _scan_rows(seen: ScanSeen) -> Iterator[Tensor]:
    """Yield the maps of some channels at a time, their rows normalised by absolute value."""
    n_rows, n_tokens, n_channels = seen.u.shape
    step = max(1, _AT_ONCE // (n_rows * n_tokens**2))
    for start in range(0, n_channels, step):
        alpha = scan_map(seen, slice(start, start + step)).abs_()
        yield alpha.div_(alpha.sum(-1, keepdim=True))


def _sees(seen: AttentionSeen) -> Tensor:
    n_tokens = seen.q.shape[2]
    return visible(n_tokens, n_tokens, seen.window, seen.n_meta, 0, seen.q.device)


def _summary(
    chunks: "Sequence[Tensor] | Iterator[Tensor]", sees: Tensor, n_meta: int, sink: bool = False
) -> MapSummary:
    shares, entropies, distances, on_meta = [], [], [], []
    for chunk in chunks:
        rows = chunk[:, :, n_meta:]
        shares.append(_shares(rows, n_meta, sink))
        over_tokens = rows / rows.sum(-1, keepdim=True).clamp(min=1e-30)
        entropies.append(torch.special.entr(over_tokens).sum(-1).mean((0, 2)))
        back = torch.arange(rows.shape[2] - 1, -1, -1, device=rows.device, dtype=rows.dtype)
        distances.append((rows[:, :, -1, n_meta:] @ back).mean(0))
        on_meta.append(rows[..., :n_meta].mean((0, 2)))
    return MapSummary(
        shares=torch.cat(shares),
        entropy=torch.cat(entropies),
        uniform=float(sees[n_meta:].sum(-1).double().log().mean()),
        distance=float(torch.cat(distances).mean()),
        on_meta=torch.cat(on_meta).mean(0),
    )


def _shares(rows: Tensor, n_meta: int, sink: bool) -> Tensor:
    """Return (h, 4 or 5). The first text token sees itself as BOS: its diagonal counts there."""
    meta, bos = rows[..., :n_meta].sum(-1), rows[..., n_meta]
    own = rows.diagonal(n_meta, dim1=-2, dim2=-1).clone()
    own[..., 0] = 0
    total = rows.sum(-1)
    parts = (meta, bos, own, total - meta - bos - own, *([1 - total] if sink else []))
    return torch.stack([part.mean((0, 2)) for part in parts], dim=1)


def _mean_head(found: MapSummary) -> MapSummary:
    shares, entropy = found.shares.mean(0, keepdim=True), found.entropy.mean(0, keepdim=True)
    return MapSummary(shares, entropy, found.uniform, found.distance, found.on_meta)
