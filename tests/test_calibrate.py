"""A step's time is told once it has settled, and what to doubt about it."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from sweeping import Lab

from hymba_lab.stats import detectable_effect
from hymba_lab.sweep.calibrate import busy, settled
from hymba_lab.tables.published import prior


def test_a_time_settles_when_two_rounds_agree() -> None:
    first, second = [9, 9, 9, 9, 9], [4, 4, 4, 4, 90]
    times = [*first, *second, 4.1, 4.1, 4.1, 0.1, 4.1, 70, 70, 70, 70, 70]
    assert settled(map(float, times)) == (4.1, True), "the last round is not asked for"


def test_a_time_that_never_settles_says_so() -> None:
    assert settled([1.0] * 5 + [2.0] * 5 + [4.0] * 5) == (4.0, False)


@pytest.mark.parametrize(
    ("load", "said"), [(0.2, None), (1.0, None), (5.2, "5.2 processes ran on 2")]
)
def test_a_busy_machine_is_named(
    load: float, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    found = busy()
    assert found is None if said is None else found is not None and said in found


def test_the_plan_measures_every_row_and_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (64.0, 0.0, 0.0))
    lab = Lab(tmp_path).with_store()
    shown = " ".join(lab.run("--plan", "--calibrate").out.split())
    assert "ms/step" in shown and "about 64.0 processes ran" in shown
    [digests] = json.loads(
        (tmp_path / "runs/sweeps/sweep-tiny/calibration.json").read_text()
    ).values()
    assert len(digests) == 2 and all(seconds > 0 for seconds in digests.values())
    again = " ".join(lab.run("--plan").out.split())
    assert "ms/step" in again and "64.0" not in again


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
