"""Costs as tables for the terminal."""

from collections.abc import Callable, Sequence

from rich import box
from rich.table import Table

from hymba_lab.cost.flops import BACKWARD
from hymba_lab.cost.model import PARTS
from hymba_lab.cost.report import Report
from hymba_lab.tables.numbers import MISSING, number


def plan_table(report: Report) -> Table:
    """Return the layer plan, one row a layer."""
    keeps = f"values kept at {report.context:,}"
    table = _table("layer", "kind", "query", "key/value", "SSM", "window", "KV of", "params", keeps)
    for row in report.layers:
        heads = row["n_heads"] is not None
        shared = row["kv_from"] != row["layer"]
        table.add_row(
            str(row["layer"]),
            row["kind"],
            f"{row['n_heads']} x {row['d_head']}" if heads else MISSING,
            f"{row['n_kv_heads']} x ({row['d_head']} + {row['d_head_v']})" if heads else MISSING,
            str(row["d_inner"] or MISSING),
            str(row["window"] or "full") if heads else MISSING,
            (f"layer {row['kv_from']}" if shared else "its own") if heads else MISSING,
            f"{row['params']:,}",
            f"{row['cache_elements']:,}",
        )
    return table


def parts_table(report: Report) -> Table:
    """Return parameters and FLOPs per token by part."""
    table = _table(
        "part",
        "params",
        "share",
        f"forward MFLOPs/token at {report.seq_len:,}",
        "training MFLOPs/token",
        f"decoding MFLOPs/token at {report.context:,}",
    )
    forward, decoding = report.forward_flops, report.decoding_flops
    for part in PARTS:
        table.add_row(
            part.replace("_", " "),
            f"{report.params[part]:,}",
            f"{report.params[part] / report.n_params:.1%}",
            *map(_mega, (forward[part], (1 + BACKWARD) * forward[part], decoding[part])),
        )
    total = sum(forward.values())
    table.add_section()
    table.add_row(
        "total",
        f"{report.n_params:,}",
        "",
        *map(_mega, (total, (1 + BACKWARD) * total, sum(decoding.values()))),
    )
    return table


_Line = tuple[str, Callable[[Report], str]]

_LINES: tuple[_Line, ...] = (
    ("parameters", lambda r: f"{r.n_params:,}"),
    ("SSM : attention parameters", lambda r: number(r.ssm_to_attention, 2)),
    ("  by the paper's count", lambda r: number(r.ssm_to_attention_paper, 2)),
    ("training MFLOPs/token", lambda r: _mega((1 + BACKWARD) * sum(r.forward_flops.values()))),
    ("  at a length of (tokens)", lambda r: f"{r.seq_len:,}"),
    ("decoding MFLOPs/token", lambda r: _mega(sum(r.decoding_flops.values()))),
    ("  at a context of (tokens)", lambda r: f"{r.context:,}"),
    ("cache, the paper's count, 8000 tokens, fp16 (MB)", lambda r: _mega(r.cache_paper)),
    ("cache, the released code's, 8000 tokens, fp16 (MB)", lambda r: _mega(r.cache_released)),
    ("cache held here at the context (MB)", lambda r: f"{_mega(r.cache_held)} {r.dtype}"),
    ("activations per training row, estimate (MB)", lambda r: _mega(r.activations_per_row)),
    ("weights, gradients, AdamW (MB)", lambda r: _mega(r.training_state)),
    ("  in the precision", lambda r: r.precision),
    ("training step, memory a device, estimate (MB)", lambda r: _mega(r.device_memory)),
)


def totals_table(reports: Sequence[Report]) -> Table:
    """Return one column a configuration: totals, caches by three accountings, memory."""
    table = _table("", *(report.name for report in reports))
    for heading, cell in _LINES:
        table.add_row(heading, *(cell(report) for report in reports))
    return table


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", overflow="fold")
    return table


def _mega(value: float) -> str:
    """Return FLOPs in millions or bytes in MB (1e6, as the paper counts)."""
    return f"{value / 1e6:,.3f}"
