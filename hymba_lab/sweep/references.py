"""What needs no learning: the references of every source, in the units of its metrics."""

import math
from collections.abc import Iterator

from hymba_lab.data.source import Source
from hymba_lab.sweep.question.level import recall_guess
from hymba_lab.sweep.session import Session

_GUESSES = {"accuracy": "by chance", "accuracy_seen": "by a guess among the values of its row"}


def data_notes(session: Session) -> list[str]:
    """Say what an uninformed predictor reaches in every metric, a line each."""
    base = session.sweep.base.resolved()
    notes = []
    for label, source in session.mixture.sources.items():
        guesses = list(_guesses(source))
        position = recall_guess(base, f"val/{label}_accuracy")
        if not math.isnan(position):
            guesses.append(f"{position:.3g} by the best guess from position alone")
        if guesses:
            notes.append(f"val/{label}_accuracy without learning: {', '.join(guesses)}.")
        if "loss" in source.reference:
            notes.append(_of_text(label, source))
    return notes


def _guesses(source: Source) -> Iterator[str]:
    for name, words in _GUESSES.items():
        if name in source.reference:
            yield f"{source.reference[name]:.3g} {words}"


def _of_text(label: str, source: Source) -> str:
    """The entropy of the tokens' frequencies, per byte where tokens stand for bytes."""
    loss, n_bytes = source.reference["loss"], source.bytes_per_token
    if n_bytes is None:
        metric, value = f"val/{label}_loss", f"{loss:.3g} nats/token"
    else:
        metric, value = f"val/{label}_bits_per_byte", f"{loss / math.log(2) / n_bytes:.3g}"
    return f"{metric} without learning: {value} by the frequencies of the tokens alone."
