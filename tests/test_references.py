"""What a table says beside its numbers: references in their metrics' units, the compared seeds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweeping import SEARCH, SWEEP, Lab, finished

from hymba_lab.stats.position_guess import position_guess
from hymba_lab.sweep.jobs import Job, Outcome
from hymba_lab.sweep.references import data_notes
from hymba_lab.sweep.tuning_notes import tuning_notes

RECALL = """\
data:
  recall: {name: mqar, rows: 3, n_pairs: [1, 2, 4], vocab: 32, n_val: 16}
  text: {name: stdlib, rows: 4, n_val: 8}
"""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_references_are_in_the_units_of_the_metrics(lab: Lab) -> None:
    base = (lab.folder / "tiny.yaml").read_text()
    kept = [
        line for line in base.splitlines() if not line.startswith(("data:", "  recall", "  text"))
    ]
    lab.write("tiny.yaml", "\n".join(kept) + "\n" + RECALL)
    session = lab.session()
    recall, text = data_notes(session)
    seq_len = session.sweep.base.training.seq_len
    guess = position_guess(seq_len, [1, 2, 4], 0.01)
    assert recall == (
        "val/recall_accuracy without learning: 0.0625 by chance, 0.429 by a guess among the values "
        f"of its row, {guess:.3g} by the best guess from position alone."
    )
    source: Any = session.mixture.sources["text"]
    train, val = (
        np.bincount(part.ids, minlength=source.vocab) for part in (source.train, source.val)
    )
    costs = -np.log2((train + 1) / (train.sum() + source.vocab))  # bits of every id
    bits = float((val * costs).sum() / val.sum()) / source.bytes_per_token
    assert text == (
        f"val/text_bits_per_byte without learning: {bits:.3g} by the frequencies of the tokens "
        "alone."
    )


def test_the_tuning_note_names_every_compared_seed(lab: Lab) -> None:
    """Also those that were added until decided."""
    lab.write("sweep.yaml", SWEEP + SEARCH)
    lab.edit(seeds=[0, 1, 2], until_decided=6)
    session, outcomes = lab.session(), dict[str, Outcome]()
    while True:
        new = [job for job in session.planner.jobs(outcomes) if job.identity not in outcomes]
        if not new:
            break
        outcomes |= {job.identity: alike(job) for job in new}
    (note, *_) = tuning_notes(session.sweep, session.planner.jobs(outcomes), outcomes)
    assert "not among the compared seeds [0, 1, 2, 3, 4, 5]. Won:" in note


def alike(job: Job) -> Outcome:
    """Rows that cannot be told from each other."""
    return finished(job, **{"val/recall_accuracy": 0.5 + 0.01 * ((7 * job.seed) % 5)})
