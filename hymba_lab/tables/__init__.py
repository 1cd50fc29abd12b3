"""From the tidy frame of compared runs to the result table; imports no torch."""

from hymba_lab.tables.display import Table, display
from hymba_lab.tables.render import (
    markdown_text,
    to_csv,
    to_latex,
    to_markdown,
    to_rich,
    to_text,
)
from hymba_lab.tables.result import Asked, provenance, result_table
from hymba_lab.tables.runs_frame import guard, values_by_seed

__all__ = [
    "Asked",
    "Table",
    "display",
    "guard",
    "markdown_text",
    "provenance",
    "result_table",
    "to_csv",
    "to_latex",
    "to_markdown",
    "to_rich",
    "to_text",
    "values_by_seed",
]
