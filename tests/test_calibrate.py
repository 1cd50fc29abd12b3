"""A step's time is told once it has settled, and what to doubt about it."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from sweeping import Lab

from hymba_lab.config import TrainingConfig
from hymba_lab.stats import detectable_effect
from hymba_lab.sweep.calibrate import load, settled, time_of_step
from hymba_lab.tables.published import prior
from hymba_lab.training.micro_rows import rows_at_a_time
from hymba_lab.training.module import LitLanguageModel


def test_a_time_settles_when_two_rounds_agree() -> None:
    first, second = [9, 9, 9, 9, 9], [4, 4, 4, 4, 90]
    times = [*first, *second, 4.1, 4.1, 4.1, 0.1, 4.1, 70, 70, 70, 70, 70]
    assert settled(map(float, times)) == (4.1, True), "the last round is not asked for"


def test_a_time_that_never_settles_says_so() -> None:
    assert settled([1.0] * 5 + [2.0] * 5 + [4.0] * 5) == (4.0, False)


@pytest.mark.parametrize(("running", "too_much"), [(0.2, False), (1.0, False), (5.2, True)])
def test_the_load_is_said_and_whether_it_is_too_much(
    running: float, too_much: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (running, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    said = f"Measured while about {running} other processes ran on 2 cores"
    assert load() == said + (": the speeds of a busy machine." if too_much else ".")


@pytest.mark.slow
def test_the_plan_measures_every_row_and_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (64.0, 0.0, 0.0))
    lab = Lab(tmp_path).with_store()
    shown = " ".join(lab.run("--plan", "--calibrate").out.split())
    assert "ms/step" in shown and "about 64.0 other processes ran" in shown
    kept = tmp_path / "runs/sweeps/sweep-tiny/calibration.json"
    [(here, digests)] = json.loads(kept.read_text()).items()
    assert len(digests) == 2 and all(seconds > 0 for seconds in digests.values())
    again = " ".join(lab.run("--plan").out.split())
    assert "ms/step" in again and "64.0" not in again
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    assert "with 5 workers" in " ".join(lab.run("--plan").out.split()), "one on each GPU"
    asked = lab.run("--plan", "--workers", "3").out
    assert "with 3 workers" in " ".join(asked.split())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    other = " ".join(lab.run("--plan", "--threads", "2").out.split())
    assert here.endswith("threads 1") and "ms/step" not in other, "of one thread"
    kept.write_text(json.dumps({"another machine": {"d": 1.0}, here: {"another row": 2.0}}))
    lab.run("--plan", "--calibrate")
    found = json.loads(kept.read_text())
    assert found["another machine"] == {"d": 1.0}, "a root may be shared"
    assert found[here].keys() == {"another row", *digests}


def test_a_step_is_timed_as_a_run_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was timed on the CPU, in float32 and all rows at once, whatever trains."""
    seen: list[tuple[TrainingConfig, int | None]] = []

    def watched(module: LitLanguageModel) -> int | None:
        found = rows_at_a_time(module)
        seen.append((module.config.training, found))
        return found

    monkeypatch.setattr("hymba_lab.training.module.rows_at_a_time", watched)
    lab = Lab(tmp_path)
    asked = ("training.micro_rows=1", "training.precision=bf16-mixed", "training.devices=2")
    session = lab.session(*asked)
    timing = time_of_step(session.cells[0].config, session.mixture, 1)
    [(training, rows)] = seen
    assert (training.precision, training.devices, rows) == ("bf16-mixed", 1, 1)
    assert timing.seconds > 0
    assert not list(tmp_path.glob("runs/*")), "no run of its own"


def test_a_plan_at_a_published_size_takes_the_noise_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is measured here: a prior where there is one, and its name; else unknown."""
    from hymba_lab.sweep.power_notes import power_notes

    lab = Lab(tmp_path)
    lab.edit(seeds=[0, 1, 2], metric={"name": "val/loss", "goal": "minimize"})
    session = lab.session()
    [unknown] = power_notes(session, {})
    assert "standard deviations of a run (spread not known yet)" in unknown
    costs = replace(session.cells[0].costs, params=150_000_000)
    session.cells[0] = replace(session.cells[0], costs=costs)
    [known] = power_notes(session, {})
    noise = prior(150e6, "nats")
    assert noise is not None and "a prior, not measured here" in known
    assert f"{detectable_effect(noise.sd, 3, 1):.3g} in val/loss" in known


def test_a_search_takes_the_time_of_its_trials_not_of_every_row(tmp_path: Path) -> None:
    """Ten trials among many rows, then the best on three seeds: thirteen runs."""
    from hymba_lab.sweep.estimate import plan_notes

    lab = Lab(tmp_path)
    widths = {str(width): {"model.mlp.d_ff": width} for width in range(16, 48, 2)}
    lab.edit(design="search", n_trials=10, seeds=[0, 1, 2], axes={"width": widths})
    session = lab.session()
    assert len(session.cells) == 16 and session.sweep.file.runs_of(16) == 13
    n_steps = session.sweep.base.n_steps
    speeds = {cell.label: 600 / n_steps for cell in session.cells}  # ten minutes a run
    notes = plan_notes(session, {}, speeds, 1)
    assert any(note.startswith("Expected time: 130 minutes") for note in notes)
