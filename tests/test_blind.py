"""What one answer to every question reaches, of samples as the harness writes them."""

import math
from typing import Any

import pandas as pd
import pytest

from hymba_lab.evaluation.blind import blind_guess
from hymba_lab.stats import compare
from hymba_lab.tables import Asked, result_table, to_markdown
from hymba_lab.tables.gates import Floor, Gate
from hymba_lab.tables.numbers import limits_of


def asked(target: Any, *choices: str, **metrics: float) -> dict[str, Any]:
    return {"target": target, "arguments": [("?", one) for one in choices], **metrics}


def test_one_text_chance_or_unknown() -> None:
    same = [asked(at, " yes", " no", acc=0.0) for at in (0, 0, 0, 1)]
    assert blind_guess(same) == 0.75
    every = [asked(3, f"{n}a", f"{n}b", f"{n}c", f"{n}d", acc_norm=1.0) for n in range(8)]
    assert blind_guess(every) == 0.25, "the right one stands last, which no model sees"
    cloze = [
        {"target": 1, "arguments": [(f"{n} a", "end"), (f"{n} b", "end")], "acc": 1}
        for n in range(3)
    ]
    assert blind_guess(cloze) == 0.5
    uneven = [asked(0, "1", "2", acc=1.0), asked(0, "3", "4", "5", "6", acc=1.0)]
    assert blind_guess(uneven) == pytest.approx(0.5), "by one text; 0.375 by chance"
    assert blind_guess([asked(word, "", exact_match=1) for word in ("a", "b", "a", "c")]) == 0.5
    assert blind_guess([asked(word, word, "no", acc=1) for word in ("a", "b", "c")]) == 0.5
    for unknown in (
        [],
        [asked(0, "a", "b", perplexity=3.0)],
        [asked([0, 1], "a", "b", acc=1.0)],
        [asked(2, "a", "b", acc=1.0)],
    ):
        assert math.isnan(blind_guess(unknown))


def test_a_mean_that_is_rounded_above_the_floor_is_at_it() -> None:
    values = {row: dict(enumerate((15 / 26, 14 / 26, 16 / 26))) for row in ("old", "new")}
    assert math.fsum(values["old"].values()) / 3 > 15 / 26
    gate, floor = Gate("maximize", 15 / 26, None), Floor(15 / 26, "one answer")
    (found,) = compare(values, "old", goal="maximize")
    assert gate(found, values, "old").kind == "not_learned"
    assert floor.note("acc", "maximize", values).endswith("nothing learned is shown: old, new.")


@pytest.mark.parametrize(("best", "verdict"), [(0.577, "not learned by either"), (0.8, "better")])
def test_rows_that_give_one_answer_are_not_compared(best: float, verdict: str) -> None:
    lines = [
        {"row": row, "seed": seed, "status": "finished", "reason": "", "identity": f"{row}{seed}",
         "eval/t/acc": value + 0.001 * seed * (row == "new" and value > 0.6), "scale": "nano"}
        for row, value in (("old", 0.577), ("new", best))
        for seed in range(4)
    ]  # fmt: skip
    runs = pd.DataFrame(lines).assign(**COSTS)
    floor = Floor(0.577, "one answer to every question")
    table = result_table(runs, Asked("eval/t/acc", "maximize", "old", floor=floor))
    assert table.frame["verdict"].tolist() == ["baseline", verdict]
    below = "old, new" if best < 0.6 else "old"
    said = "0.577 by one answer to every question; no better, so nothing learned is shown: "
    assert table.notes[0] == f"eval/t/acc without learning: {said}{below}."
    assert table.notes[0] in to_markdown(table)


def test_no_interval_of_a_share_leaves_its_range() -> None:
    for name in (
        "eval/t/acc",
        "eval/t/exact_match",
        "acc",
        "dpo/rewards/accuracies",
        "val/r_accuracy",
    ):
        assert limits_of(name) == (0.0, 1.0)
    for name in ("eval/t/acc_stderr", "eval/t/perplexity", "vacc"):
        assert limits_of(name) == (-math.inf, math.inf)


COSTS = dict(
    params=1, tokens_per_second=1.0, seconds=1.0, tokens=1, ssm_to_attention=1.0, cache_bytes=1,
    flops_per_token=1.0, code_version=1, commit="c", dirty=False, data_fingerprint="d",
    hardware="h",
)  # fmt: skip
