"""Exported runs keep their identity: an option added since then is left out of digests."""

import json
from pathlib import Path
from typing import Annotated

import pandas as pd
import pytest
from pydantic import Field

from hymba_lab.config import load_config, resolve
from hymba_lab.cost.many import Meter
from hymba_lab.registry import LATER, Registry, Section
from hymba_lab.runs import record
from hymba_lab.sweep.cells import make_cells
from hymba_lab.sweep.match import match_budgets
from hymba_lab.sweep.question.file import load_sweep

EXPORTS = Path(__file__).parents[1] / "results"
SLOW = ("meta_tokens", "same_recipe", "head_ratio", "kv_sharing")


@pytest.mark.parametrize(
    "name",
    ["fusion-nano", *(pytest.param(f"{name}-nano", marks=pytest.mark.slow) for name in SLOW)],
)
def test_an_exported_run_has_the_identity_of_its_sweep_today(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = json.loads((EXPORTS / name / "sweep.resolved.json").read_text())
    (tmp_path / "base.yaml").write_text(json.dumps(exported["base"]))
    sweep_file = {k: v for k, v in exported["sweep"].items() if k not in ("scale", "paper")}
    (tmp_path / "sweep.yaml").write_text(json.dumps(sweep_file | {"base": "base.yaml"}))
    sweep = load_sweep(tmp_path / "sweep.yaml")
    meter = Meter(320)
    cells = {cell.label: cell for cell in match_budgets(sweep, make_cells(sweep, meter), meter)}
    runs = pd.read_csv(EXPORTS / name / "runs.csv")
    assert not runs.empty
    for run in runs[runs["status"] == "finished"].to_dict("records"):
        document = cells[run["row"]].document
        document = document.patched("optimizer.lr", float(run["optimizer.lr"]), "runs.csv")
        digest = resolve(document).digest
        monkeypatch.setattr(record, "CODE_VERSION", run["code_version"])
        found = record.identity_of(digest, run["seed"], run["data_fingerprint"])
        assert found == run["identity"], (name, run["row"])


class Part(Section):
    """What it was made with, and what came later."""

    old: int = 1
    new: Annotated[bool, LATER] = False


class Whole(Section):
    """Parts at every depth."""

    part: Part = Part()
    parts: tuple[Part, ...] = ()
    named: dict[str, Part] = Field(default_factory=dict)
    added: Annotated[tuple[int, ...], LATER] = ()


def test_a_later_option_is_left_out_at_its_default_and_only_there() -> None:
    plain, new = Part(), Part(new=True)
    assert plain.canonical() == {"old": 1} and new.canonical() == {"old": 1, "new": True}
    whole = Whole(part=new, parts=(plain, new), named={"a": plain})
    assert whole.canonical() == {
        "part": {"old": 1, "new": True},
        "parts": [{"old": 1}, {"old": 1, "new": True}],
        "named": {"a": {"old": 1}},
    }
    assert Whole(added=(1,)).canonical()["added"] == [1]
    assert whole.model_dump()["part"] == {"old": 1, "new": True}  # what is stored says everything


def test_an_option_of_a_component_may_be_a_later_one() -> None:
    things: Registry[object] = Registry("model.thing")

    @things.register("one")
    def one(*, width: int, gate: Annotated[bool, LATER] = False) -> object:
        return object()

    assert things.spec("one", width=3).canonical() == {"name": "one", "width": 3}
    assert things.spec("one", width=3, gate=True).canonical()["gate"] is True


def test_a_later_option_changes_the_digest(tiny: Path) -> None:
    plain = load_config(tiny)
    assert "output_gate" not in plain.canonical()["model"]["attention"]
    assert plain.resolved()["model"]["attention"]["output_gate"] is None
    off = load_config(tiny, ["model.attention.output_gate=null"])
    on = load_config(tiny, ["model.attention.output_gate=per_head"])
    assert off.digest == plain.digest != on.digest
