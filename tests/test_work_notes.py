"""What a sweep takes, said in its plan: operations, memory, time."""

from pathlib import Path

from sweeping import Lab

from hymba_lab.cost.memory import device_memory
from hymba_lab.sweep.work_notes import work_notes


def test_the_work_is_that_of_all_runs(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.edit(seeds=[0, 1, 2])
    session = lab.session()
    operations, memory, time = work_notes(session, {}, {}, 2)
    tokens, per_token = session.sweep.base.training.tokens, 0.0
    for cell in session.cells:
        per_token += 3 * cell.costs.flops_per_token  # a backward costs two forwards
    expected = f"{3 * tokens * per_token:.2g}"
    assert operations == f"Operations of all runs: {expected} FLOPs, forward and backward."
    most = max(session.cells, key=lambda cell: cell.costs.flops_per_token)
    estimate = device_memory(most.config, session.mixture.vocab).total
    assert f"about {estimate / 1e9:.2g} GB ({most.label})" in memory
    assert time.startswith("Expected time: not known")


def test_the_time_is_also_told_in_hours_of_one_worker(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.edit(seeds=[0, 1, 2])
    session = lab.session()
    speeds = {cell.label: 3600 / session.sweep.base.n_steps for cell in session.cells}
    *_, time = work_notes(session, {}, speeds, 4)
    assert time == (
        "Expected time: 90 minutes with 4 workers for what is left, 6 hours of one worker."
    )


def test_runs_that_may_end_sooner_take_at_most_that(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.edit(stop={"metric": "val/recall_accuracy", "at": 0.9})
    assert "at most: a run that solves ends sooner" in work_notes(lab.session(), {}, {}, 1)[0]
