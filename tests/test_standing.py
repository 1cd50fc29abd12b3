"""Rows that may not be compared as they stand: who reads of them is told, and why."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hymba_lab.sweep.export import read_export
from hymba_lab.sweep.question.file import SweepFile
from hymba_lab.sweep.standing import lost_values, standing
from hymba_lab.sweep.tuned import chosen_by_one_run
from tests.claiming import HYBRID, Desk

LR = "optimizer.lr"
SEARCH = {"search": {LR: {"choices": [0.004, 0.008]}}, "trials_per_cell": 2}
RACE = {**SEARCH, "tuning": "race"}
ROWS = {"hybrid": [0.6, 0.61, 0.6, 0.61], "mamba": [0.4, 0.41, 0.42, 0.41]}
ANOTHER = HYBRID.replace("  hybrid:", "  again:").replace("sweep: heads", "sweep: others")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def line(row: str, seed: int, lr: float, chosen: int, solved: int = 1) -> dict[str, Any]:
    return {
        "row": row, "seed": seed, LR: lr, "chosen": chosen, "status": "finished", "solved": solved,
        "identity": f"{row}-{seed}" if lr == 0.008 else f"other-{row}-{seed}", "commit": "c",
    }  # fmt: skip


def both(row: str, won: float) -> list[dict[str, Any]]:
    """Three seeds of two values, of which one stands."""
    return [line(row, s, lr, int(lr == won)) for s in range(3) for lr in (0.004, 0.008)]


def raced(desk: Desk, lines: list[dict[str, Any]], name: str = "raced") -> None:
    """An export with a race of these lines; the runs of 0.008 are those of the export `heads`."""
    desk.export({"x": [0.5] * 3}, name, sweep=RACE)
    known = [{**one, "identity": one["identity"].ljust(40, "0")} for one in lines]
    columns = dict.fromkeys(("val/recall_accuracy", "seconds", "tokens_to_solve"), 1.0)
    columns |= dict.fromkeys(("censored_at", "tokens_trained"), 1.0)
    frame = pd.DataFrame(known).assign(**columns)
    desk.write(f"results/{name}-nano/tuning.csv", frame.to_csv(index=False))


def judged(desk: Desk) -> dict[str, str]:
    """The one comparison, by the column's name."""
    (found,) = desk.run()
    return found


def test_a_row_at_a_value_that_lost_elsewhere_is_not_judged(desk: Desk) -> None:
    desk.export(ROWS, sweep=SEARCH, **{LR: {"hybrid": 0.008, "mamba": 0.004}})
    assert judged(desk)["status"] == "reproduced"
    raced(desk, both("hybrid", 0.004))
    found = judged(desk)
    said = f"hybrid stands where {LR} 0.008 lost to {LR} 0.004 in raced-nano"
    assert (found["status"], found["not_judged"], found["p"]) == ("not judged", said, "")
    page = desk.text("md")
    assert f"| not judged: {said} |" in page
    assert "1 is not judged, since their rows may not be compared as they stand." in page


def test_the_list_of_sweeps_says_which_row_stands_at_a_value_that_lost(desk: Desk) -> None:
    desk.export(ROWS, sweep=SEARCH, **{LR: {"hybrid": 0.008, "mamba": 0.004}})
    raced(desk, both("hybrid", 0.004))
    heads, race = (read_export(desk.folder / f"results/{name}-nano") for name in ("heads", "raced"))
    lost = lost_values([heads, race])
    said = f"“hybrid” stands where {LR} 0.008 lost to {LR} 0.004 in raced-nano."
    assert (standing(heads, lost), standing(race, lost)) == (said, "")


@pytest.mark.parametrize(
    "lines",
    [
        both("hybrid", 0.008),
        [line("hybrid", 0, 0.008, 0, 0), *(line("hybrid", s, 0.004, 1, 0) for s in range(3))],
        [line("hybrid", s, lr, 0) for s in range(2) for lr in (0.004, 0.008)],
    ],
    ids=["it won", "none solved, one run chose", "nobody has won yet"],
)
def test_a_row_that_lost_no_race_is_judged(desk: Desk, lines: list[dict[str, Any]]) -> None:
    desk.export(ROWS, sweep=SEARCH, **{LR: {"hybrid": 0.008, "mamba": 0.004}})
    raced(desk, lines)
    assert judged(desk)["status"] == "reproduced"


def test_who_won_in_one_race_did_not_lose_for_good_in_another(desk: Desk) -> None:
    """Two tables may race different values: what was chosen somewhere stands."""
    desk.export(ROWS, sweep=SEARCH, **{LR: {"hybrid": 0.008, "mamba": 0.004}})
    for name, won in (("raced", 0.004), ("second", 0.008)):
        raced(desk, both("hybrid", won), name)
    assert judged(desk)["status"] == "reproduced"


@pytest.mark.parametrize(("mamba", "status"), [(0.004, "not judged"), (0.008, "reproduced")])
def test_another_metric_was_not_tuned_for(desk: Desk, mamba: float, status: str) -> None:
    desk.claim(HYBRID.replace("    against:", "    metric: val/text_loss\n    against:"))
    loss = {row: list(own) for row, own in ROWS.items()}
    lr = {"hybrid": 0.008, "mamba": mamba}
    desk.export(ROWS, sweep=SEARCH, **{LR: lr, "val/text_loss": loss})
    found = judged(desk)
    assert found["status"] == status
    said = f"tuned for recall accuracy, and at different values: {LR} 0.008 and {LR} 0.004"
    assert found["not_judged"] == (said if status == "not judged" else "")


def test_what_is_not_judged_does_not_weaken_its_evidence(desk: Desk) -> None:
    """Named evidence is held to its largest p, of what was judged."""
    named = "    same_evidence: hybrids\n    paper:"
    desk.claim(HYBRID.replace("    paper:", named), ANOTHER.replace("    paper:", named))
    desk.export(ROWS, "others")
    desk.export({"hybrid": [0.5, 0.4, 0.6, 0.5], "mamba": [0.5, 0.6, 0.4, 0.5]}, sweep=SEARCH,
                **{LR: {"hybrid": 0.008, "mamba": 0.004}})  # fmt: skip
    assert [one["comparison_status"] for one in desk.run()] == ["undecided", "reproduced"]
    assert "**0 of 1 independent" in desk.text("md")
    raced(desk, both("hybrid", 0.004))
    rename(desk, "others")
    assert [one["comparison_status"] for one in desk.run()] == ["not judged", "reproduced"]
    assert "**1 of 1 independent" in desk.text("md")


def rename(desk: Desk, name: str) -> None:
    """Give the runs of an export identities of their own."""
    path = desk.folder / f"results/{name}-nano/runs.csv"
    path.write_text(path.read_text().replace("hybrid-", "own-").replace("mamba-", "theirs-"))


def test_the_headline_counts_what_rests_on_luck(desk: Desk) -> None:
    desk.export(ROWS, sweep=SEARCH, **{LR: {"hybrid": 0.008, "mamba": 0.008}})
    desk.run()
    said = "Of what holds, 1 rests on rows that one run a value tuned, and may be the luck of that."
    assert said in desk.text("md")
    desk.export(ROWS, sweep=RACE, **{LR: {"hybrid": 0.008, "mamba": 0.008}})
    desk.run()
    assert "luck" not in desk.text("md")


def test_which_rows_of_a_race_one_run_chose() -> None:
    lines = [
        *both("raced", 0.004),
        *(line("one value solved", s, 0.004, 1) for s in range(3)),
        line("one value solved", 0, 0.008, 0, 0),
        *(line("none solved", s, 0.004, 1, 0) for s in range(3)),
        line("none solved", 0, 0.008, 0, 0),
        line("solved by the second", 0, 0.004, 1, 0),
        *(line("solved by the second", s, 0.004, 1) for s in (1, 2)),
        line("solved by the second", 0, 0.008, 0, 0),
        *(line("nothing to choose", s, 0.004, 1, 0) for s in range(3)),
    ]
    shared = {"question": "?", "base": "", "axes": {}, "metric": {"name": "m", "goal": "maximize"}}
    file = SweepFile.model_validate({**shared, **RACE, "seeds": [0, 1, 2]})
    frame = pd.DataFrame(lines)
    assert chosen_by_one_run(frame, file) == ["none solved", "solved by the second"]
    assert chosen_by_one_run(None, file) == []
    began_with_1 = file.model_copy(update={"seeds": [1, 0, 2]})
    assert chosen_by_one_run(frame, began_with_1) == ["none solved"]
