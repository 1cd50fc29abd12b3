"""The paper's numbers beside the runs' own."""

from collections.abc import Sequence

import pandas as pd

from hymba_lab.errors import UserError


def with_paper(frame: pd.DataFrame, reference: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the frame with the columns paper and paper_note, and the notes that go with them.

    Raises `UserError` for a `reference` without row, value and note, or with a row twice.
    """
    absent = {"row", "value", "note"} - set(reference.columns)
    if absent or reference["row"].duplicated().any():
        raise UserError("the reference needs the columns row, value, note, and each row once.")
    paper = reference.assign(row=reference["row"].astype(str)).set_index("row")
    values = pd.to_numeric(paper["value"]).astype("float64")
    remarks = {str(row): str(note) for row, note in paper["note"].dropna().items() if note}
    shown = frame.assign(
        paper=frame["row"].map(values).astype("float64"),
        paper_note=frame["row"].map(lambda row: remarks.get(row, "")),
    )
    notes = [
        "Column paper: its own models, data and scale; compare the order of rows, not values.",
        *_remark_notes([(row, remarks[row]) for row in frame["row"] if row in remarks]),
    ]
    unmatched = [str(row) for row in paper.index if row not in set(frame["row"])]
    if unmatched:
        notes.append(f"Rows of the paper without runs here: {', '.join(unmatched)}.")
    return shown, notes


def _remark_notes(remarks: Sequence[tuple[str, str]]) -> list[str]:
    """One note per remark: of all rows that have one, or of the rows it names."""
    rows: dict[str, list[str]] = {}
    for row, remark in remarks:
        rows.setdefault(remark, []).append(row)
    if len(rows) == 1 < len(remarks):
        return [f"Paper: {remarks[0][1]}"]
    return [f"Paper, {', '.join(own)}: {remark}" for remark, own in rows.items()]
