"""Threads: what a process waits like and how many it has is settled before torch is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = """if 1:
    from pathlib import Path
    from hymba_lab.sweep.launchers import local as launch

    launch._PRELOAD = "json"
    launcher = launch.ForkServer(1, 3, None)
    print(launcher.submit(Path.read_text, Path("/proc/self/environ")).result())
    launcher.stop()
"""
TRAIN = """if 1:
    import os, sys

    class Watch:  # asked first for every module that is imported
        def find_spec(self, name, path=None, target=None):
            if name == "torch":
                print(os.environ["OMP_WAIT_POLICY"])

    sys.meta_path.insert(0, Watch())
    from hymba_lab.commands.train import main
    main(["absent.yaml"])
"""


def run(code: str, **environment: str) -> str:
    env = {name: value for name, value in os.environ.items() if "OMP" not in name} | environment
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    return done.stdout


@pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="Linux shows what it began with"
)
@pytest.mark.parametrize("given", [None, "active"])
def test_a_worker_begins_with_its_threads_and_leaves_its_core_while_it_waits(
    given: str | None,
) -> None:
    environment = {} if given is None else {"OMP_WAIT_POLICY": given}
    began_with = run(WORKER, **environment).strip().split("\0")
    assert {"OMP_NUM_THREADS=3", "MKL_NUM_THREADS=3"} <= set(began_with)
    assert f"OMP_WAIT_POLICY={given or 'passive'}" in began_with


def test_training_one_model_sets_how_threads_wait_before_torch_reads_it() -> None:
    assert run(TRAIN).split() == ["passive"]
    assert run(TRAIN, OMP_WAIT_POLICY="active").split() == ["active"]
