"""Figures from tidy frames: no torch, no files read. `save` writes SVG, PNG and PDF.

Each function takes DataFrames and returns a matplotlib `Figure`; `width` [inch] is `WIDE` (6.6) or
`COLUMN` (3.3). Where a row has a colour and mark, `rows` names all rows of a report, so that it has
them in every figure of it. Rows keep their order of first appearance. A frame without the columns,
or without lines to draw, is a `UserError`. The columns of probes are those of `hymba_lab.probes`.

| function | figure of the paper | frame |
|---|---|---|
| `removal` | 3, 13 | probes/removal.csv |
| `meta_attention` | 5 | probes/meta_attention.csv |
| `mass` | 7 | probes/mass.csv |
| `trade_off` | 9 | `tables.result_table(...).frame` |
| `needle` | 10 | probes/needle.csv |
| `erf_against_cache` | 11 | probes/erf.csv |
| `magnitudes` | 12 | probes/magnitudes.csv |
| `training_curves` | 14 | row, seed, step, tokens, metric, value |
| `entropy` | 15 | probes/entropy.csv |
| `solved_over_tokens` | | row, seed, tokens, solved |
| `cache_against_length` | 2 | model, kind, tokens, cache_bytes (`hymba_lab.cost.lengths`) |
"""

from hymba_lab.figures.costs import erf_against_cache, trade_off
from hymba_lab.figures.curves import needle, training_curves
from hymba_lab.figures.lengths import cache_against_length
from hymba_lab.figures.maps import entropy, mass, meta_attention
from hymba_lab.figures.parts import magnitudes, removal
from hymba_lab.figures.solved import solved_over_tokens
from hymba_lab.figures.style import COLUMN, WIDE, save

__all__ = [
    "COLUMN",
    "WIDE",
    "cache_against_length",
    "entropy",
    "erf_against_cache",
    "magnitudes",
    "mass",
    "meta_attention",
    "needle",
    "removal",
    "save",
    "solved_over_tokens",
    "trade_off",
    "training_curves",
]
