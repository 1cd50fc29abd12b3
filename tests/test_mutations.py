"""Mutated experiment and sweep files through the real entry: one message or a plan, never more."""

import random
import re
import resource
import time
from pathlib import Path

import pytest
from conftest import TINY
from mutations import mutated
from sweeping import SEARCH, SWEEP, Lab
from test_bad_input import PLACE, no_launcher

MOST_S, MOST_BYTES = 20.0, 2e9  # of one file, before anything is trained


def peak_bytes() -> float:
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def plan_mutants(folder: Path, seeds: range) -> dict[int, str]:
    """Plan every mutant; return what was wrong with how it ended, by seed.

    Half of them are refused at least: who takes everything would have no fault to say.
    """
    faults, n_refused = {}, 0
    for seed in seeds:
        chance = random.Random(seed)
        lab = Lab(folder / str(seed), SWEEP + SEARCH, TINY)
        name = chance.choice(("sweep.yaml", "tiny.yaml"))
        path = lab.folder / name
        path.write_bytes(mutated(path.read_text(), chance))
        begun, before = time.monotonic(), peak_bytes()
        try:
            ended = lab.run("--plan", launcher=no_launcher)
        except Exception as error:
            faults[seed] = f"{name}: {type(error).__name__}: {error}"[:300]
            continue
        placed = ended.err.count("error: ") == 1 and re.search(PLACE, ended.err)
        n_refused += ended.code == 2
        told = ended.code == 0 or (ended.code == 2 and placed)
        if not told or "Traceback" in ended.err:
            faults[seed] = f"{name}: {ended.code} {ended.err}"[:300]
        if time.monotonic() - begun > MOST_S or peak_bytes() - before > MOST_BYTES:
            faults[seed] = f"{name}: {time.monotonic() - begun:.0f} s, {peak_bytes() - before:.2g}"
    assert 2 * n_refused >= len(seeds)
    return faults


def test_a_few_mutated_files_end_in_one_message(tmp_path: Path) -> None:
    """Promise: one clear message."""
    assert plan_mutants(tmp_path, range(12)) == {}


@pytest.mark.campaign
@pytest.mark.slow
def test_a_thousand_mutated_files_end_in_one_message(tmp_path: Path) -> None:
    assert plan_mutants(tmp_path, range(1000)) == {}
