"""tuning.csv: every run that chose a row's values, so that a reader can check the choice."""

import math
import random
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from exporting import METRIC, ROWS, report, run, write_export
from sweeping import SEARCH, SWEEP, Lab
from test_race import RACE, drawn, play

from hymba_lab.errors import StoreError
from hymba_lab.report.tuned import tuning_table
from hymba_lab.sweep.export import read_export
from hymba_lab.sweep.question.level import recall_guess
from hymba_lab.sweep.report import tuning_lines
from hymba_lab.sweep.tuned import NAME, tuning_csv

COMMITTED = sorted(path.parent for path in (ROOT / "results").glob(f"*/{NAME}"))
LR = "optimizer.lr"
STOPPING = {"stop": {"metric": METRIC, "at": 0.95}, "tuning": "race", "sampler": {"name": "grid"}}


def tried(row: str, seed: int, lr: float, **facts: object) -> dict[str, object]:
    """One line of tuning.csv, solved at 1,000 tokens unless said otherwise."""
    solved = {"solved": 1.0, "tokens_to_solve": 1000.0, "censored_at": math.nan}
    name = f"{row}{seed}{lr}"
    line = {"row": row, "seed": seed, LR: lr, "chosen": 0, "status": "finished", METRIC: 0.96}
    ended = {"tokens_trained": 1200.0, "seconds": 9.0, "identity": name, "commit": "c0ffee"}
    return {**line, **solved, **ended, **facts}


def with_tuning(folder: Path, lines: list[dict[str, object]]) -> Path:
    pd.DataFrame(lines).to_csv(folder / NAME, index=False)
    return folder


# --- what a sweep writes


def test_every_raced_run_is_a_line_and_the_compared_ones_are_marked(tmp_path: Path) -> None:
    lab = Lab(tmp_path, SWEEP)
    lab.edit(**RACE)
    session = lab.session()
    outcomes = play(session, drawn(session, random.Random(1)), random.Random(1))
    file, jobs = session.sweep.file, session.planner.jobs(outcomes)
    compared = [
        {"row": job.cell.label, **job.params, "seed": job.seed, "identity": job.identity}
        for job in jobs
        if job.stage == "seed"
    ]
    path = tmp_path / NAME
    lines = tuning_lines(session, file.stop, jobs, outcomes)
    path.write_text(tuning_csv(file, file.stop, lines, pd.DataFrame(compared)))
    found = pd.read_csv(path)
    assert set(found["identity"]) == set(outcomes) and len(found) == len(outcomes)
    own = found[found["chosen"] == 1]
    assert set(own["identity"]) == {line["identity"] for line in compared}
    assert (own.groupby("row")["seed"].apply(list).map(len) == 6).all()
    assert list(found["row"].unique()) == [cell.label for cell in session.cells]
    for _, rows in found.groupby("row"):
        assert list(rows[LR]) == sorted(rows[LR])
    ended = found["tokens_to_solve"].fillna(found["censored_at"])
    assert (ended < found["tokens_trained"] + 64).all()  # fake runs end within a step


@pytest.mark.slow
def test_tuning_on_a_seed_of_its_own_stands_there_too(tmp_path: Path) -> None:
    lab = Lab(tmp_path, SWEEP + SEARCH)
    assert lab.run("--out", str(tmp_path / "results")).code == 0
    kept = read_export(tmp_path / "results" / "sweep-tiny")
    assert kept.tuning is not None
    assert set(kept.tuning["seed"]) == {kept.sweep.tune_seed}
    assert len(kept.tuning) == kept.sweep.trials_per_cell * 2
    assert kept.tuning.groupby("row")["chosen"].sum().tolist() == [1, 1]
    won = kept.tuning[kept.tuning["chosen"] == 1].groupby("row")[LR].first()
    assert (kept.runs.groupby("row")[LR].first() == won).all()
    lab.edit(search={}, trials_per_cell=0)
    assert lab.run("--out", str(tmp_path / "plain")).code == 0
    assert not (tmp_path / "plain" / "sweep-tiny" / NAME).exists()


# --- what is committed


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_in_committed_races_the_soonest_over_all_seeds_was_chosen(folder: Path) -> None:
    """Read from the file alone: no value with as many seeds solved sooner than the chosen one.

    An unsolved run counts as up to twice its end, by how far its metric was from the level.
    """
    export = read_export(folder)
    assert export.tuning is not None and export.sweep.tuning == "race"
    assert set(export.runs["identity"]) == set(
        export.tuning.loc[export.tuning["chosen"] == 1, "identity"]
    )
    n_seeds, stop = len(export.sweep.seeds), export.sweep.stop
    assert stop is not None
    guess = recall_guess(export.base, stop.metric)
    for row, own in export.tuning.groupby("row"):
        left = ((stop.at - own[stop.metric]) / (stop.at - guess)).clip(0, 1)
        ended = own["tokens_to_solve"].fillna(own["censored_at"] * 2**left).map(math.log)
        values = pd.DataFrame(
            {LR: own[LR], "log": ended, "chosen": own["chosen"], "unsolved": 1 - own["solved"]}
        )
        whole = values.groupby(LR).filter(lambda runs: len(runs) == n_seeds).groupby(LR)
        found = whole.agg({"log": "mean", "chosen": "max", "unsolved": "sum"})
        best = found.sort_values(["unsolved", "log"]).iloc[0]
        assert best["chosen"] == 1, row


# --- what a page shows of it


def test_a_page_shows_what_each_value_came_to(tmp_path: Path) -> None:
    lines = [
        tried(ROWS[0], 0, 0.001, chosen=1, tokens_to_solve=100_000.0),
        tried(ROWS[0], 1, 0.001, chosen=1, tokens_to_solve=400_000.0),
        tried(ROWS[0], 0, 0.01, status="pruned", tokens_to_solve=math.nan, tokens_trained=3e5),
        tried(ROWS[1], 0, 0.01, status="failed", tokens_to_solve=math.nan, tokens_trained=math.nan),
    ]
    write_export(tmp_path, sweep=STOPPING)
    assert "tuning.csv" not in read_export(tmp_path / "fusion-tiny").files
    page = tuning_table(read_export(with_tuning(tmp_path / "fusion-tiny", lines)))
    cells = [cell.split("</td>")[0] for cell in page.split('<td class="number">')[1:]]
    assert cells == ["✓ 200 (2)", "&gt; 300 (1)", "—", "failed (1)"]
    assert "gate | &lt;b&gt;" in page
    assert report("--results", tmp_path).code == 0
    whole = (tmp_path / "fusion-tiny" / "report.html").read_text()
    assert page in whole and 'href="tuning.csv"' in whole


def test_without_a_task_it_shows_the_metric_and_with_too_many_values_nothing(
    tmp_path: Path,
) -> None:
    folder = write_export(tmp_path)
    assert tuning_table(read_export(folder)) == ""
    lines = [tried(ROWS[0], 1000, 0.001, chosen=1), tried(ROWS[0], 1000, 0.01, **{METRIC: 0.25})]
    page = tuning_table(read_export(with_tuning(folder, lines)))
    assert "✓ 0.9600 (1)" in page and "0.2500 (1)" in page
    many = [tried(ROWS[0], 1000, 0.001 * n) for n in range(1, 14)]
    assert tuning_table(read_export(with_tuning(folder, many))) == ""


def test_what_an_older_sweep_left_is_not_shown(tmp_path: Path) -> None:
    """The search was dropped and the sweep run again: its folder still holds the old file."""
    folder = write_export(tmp_path, sweep={"search": {}, "trials_per_cell": 0})
    export = read_export(with_tuning(folder, [tried(ROWS[0], 1000, 0.001)]))
    assert export.tuning is None and tuning_table(export) == ""


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    folder = write_export(tmp_path, runs=[run(row, 0) for row in ROWS])
    (folder / NAME).write_text("row,seed\nmean,0\n")
    with pytest.raises(StoreError, match=r"tuning\.csv: has no column"):
        read_export(folder)
