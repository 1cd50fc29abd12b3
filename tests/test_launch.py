"""What a process waits like, its threads and its GPUs are settled before torch is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from hymba_lab.errors import LaunchError
from hymba_lab.sweep.launchers.attempt import Attempt
from hymba_lab.sweep.launchers.base import Site
from hymba_lab.sweep.launchers.local import ForkServer
from hymba_lab.sweep.launchers.needs import Needs

BEGAN = """if 1:
    from pathlib import Path

    def began_with(task):
        return Path("/proc/self/environ").read_text()

    def sees(task):
        import os, time
        time.sleep(0.2)  # so that no two of a pair can share one place in turn
        return os.environ["CUDA_VISIBLE_DEVICES"]
"""
WORKER = """if 1:
    from pathlib import Path
    from types import SimpleNamespace
    import began
    from hymba_lab.runs.root_id import root_id
    from hymba_lab.sweep.launchers import local as launch
    from hymba_lab.sweep.launchers.base import Site
    from hymba_lab.sweep.launchers.needs import Needs

    launch._PRELOAD = "json"
    root = Path()
    needs = Needs(devices=DEVICES)
    task = SimpleNamespace(
        root=root, folder=root / "runs/x", root_id=root_id(root), claim="", needs=needs
    )
"""
ALONE = WORKER.replace("DEVICES", "1")
THREADS = """
    launcher = launch.ForkServer(Site("test", n_threads=3, n_workers=1))
    print(launcher.submit(began.began_with, task).result())
    launcher.stop()
"""
GPUS = """
    launcher = launch.ForkServer(Site("test"), trials_per_gpu=2)
    first = [launcher.submit(began.sees, task) for _ in range(launcher.capacity)]
    seen = [future.result() for future in first]
    print(launcher.capacity, *sorted(seen), launcher.submit(began.sees, task).result() in seen)
    launcher.stop()
"""
PAIRS = """
    launcher = launch.ForkServer(Site("test", needs=needs))
    first = [launcher.submit(began.sees, task) for _ in range(launcher.capacity)]
    seen = [future.result() for future in first]
    seen.append(launcher.submit(began.sees, task).result())
    print(launcher.capacity, *seen)
    launcher.stop()
"""
STOPS = """
    import _multiprocessing
    from pebble.pool.process import WorkerManager
    launcher = launch.ForkServer(Site("test", n_workers=1))
    launcher.submit(began.sees, task).result()
    channel = launcher._pool._pool_manager.worker_manager.workers_channel
    lock, kill = channel.mutex.reader_mutex._semlock, WorkerManager.force_stop_workers
    named = lock.handle, lock.kind, lock.maxvalue, lock.name

    def killed(self):
        _multiprocessing.SemLock._rebuild(*named)  # as a worker does at its start
        kill(self)

    WorkerManager.force_stop_workers = killed
    launcher.stop()
    print("stopped")
"""
TRAIN = """if 1:
    import os, sys

    class Watch:  # asked first for every module that is imported
        def find_spec(self, name, path=None, target=None):
            if name == "torch":
                print(os.environ["OMP_WAIT_POLICY"], flush=True)
                os._exit(0)  # what follows is torch itself

    sys.meta_path.insert(0, Watch())
    from hymba_lab.commands.train import main
    main(["absent.yaml"])
"""


def run(code: str, folder: Path | None = None, **environment: str) -> str:
    env = {name: value for name, value in os.environ.items() if "OMP" not in name} | environment
    if folder is not None:
        (folder / "began.py").write_text(BEGAN)
        env["PYTHONPATH"] = f"{ROOT}:{folder}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=folder
    )
    assert "Error" not in done.stderr or folder is None, done.stderr
    return done.stdout


@pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="Linux shows what it began with"
)
@pytest.mark.parametrize("given", [None, "active"])
def test_a_worker_begins_with_its_threads_and_leaves_its_core_while_it_waits(
    given: str | None, tmp_path: Path
) -> None:
    environment = {} if given is None else {"OMP_WAIT_POLICY": given}
    began_with = run(ALONE + THREADS, tmp_path, **environment).strip().split("\0")
    assert {"OMP_NUM_THREADS=3", "MKL_NUM_THREADS=3"} <= set(began_with)
    assert f"OMP_WAIT_POLICY={given or 'passive'}" in began_with


@pytest.mark.parametrize("given", [None, "active"])
def test_training_one_model_sets_how_threads_wait_before_torch_reads_it(given: str | None) -> None:
    environment = {} if given is None else {"OMP_WAIT_POLICY": given}
    assert run(TRAIN, **environment).split() == [given or "passive"]


def test_every_gpu_gets_its_trials_without_being_asked(tmp_path: Path) -> None:
    """Two GPUs, two trials on each: four at a time, and who follows gets a place that is free."""
    assert run(ALONE + GPUS, tmp_path, CUDA_VISIBLE_DEVICES="4,7").split() == [
        "4", "4", "4", "7", "7", "True",
    ]  # fmt: skip


def test_a_worker_that_starts_finds_its_locks_until_it_is_killed(tmp_path: Path) -> None:
    """Else it prints a traceback while all are stopped; `run` refuses any."""
    assert run(ALONE + STOPS, tmp_path, CUDA_VISIBLE_DEVICES="4") == "stopped\n"


def test_a_trial_of_two_devices_has_two_gpus_of_its_own(tmp_path: Path) -> None:
    """Five GPUs are two such trials at a time; who follows gets both of one that has ended."""
    pairs = WORKER.replace("DEVICES", "2") + PAIRS
    capacity, *seen = run(pairs, tmp_path, CUDA_VISIBLE_DEVICES="0,1,2,3,4").split()
    assert capacity == "2"
    first, second, third = (set(pair.split(",")) for pair in seen)
    assert len(first) == len(second) == 2
    assert not first & second
    assert len(third) == 2
    assert third <= first | second


def test_more_devices_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is started, and with what to do."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with pytest.raises(LaunchError, match=r"--set training\.devices=2"):
        ForkServer(Site("test", needs=Needs(devices=3)))
    with pytest.raises(LaunchError, match="trials_per_gpu: 2"):
        ForkServer(Site("test", needs=Needs(devices=2)), trials_per_gpu=2)


def test_a_task_is_read_without_what_trains_it() -> None:
    code = (
        "import sys, hymba_lab.sweep.launchers.worker, hymba_lab.sweep.task\n"
        "sys.exit(bool({'torch', 'lightning', 'mlflow', 'optuna'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


FAILS = """if 1:
    import sys
    from pathlib import Path
    from types import SimpleNamespace
    import fails
    from hymba_lab.runs.root_id import root_id
    from hymba_lab.sweep.launchers import worker
    from hymba_lab.sweep.launchers.attempt import Attempt

    root = Path().absolute()
    facts = {"root": root, "folder": root / "runs/x", "root_id": root_id(root), "claim": "claim"}
    task = SimpleNamespace(**facts, timeout_s=None)
    attempt = Attempt(task.folder, task.claim)
    attempt.write_task(fails.fails, task)
    sys.exit(worker.main([str(attempt.task_file)]))
"""


def test_a_job_that_completes_with_a_failed_trial_says_so(tmp_path: Path) -> None:
    """A queue knows exit statuses; without the note the view would not tell of the failure."""
    (tmp_path / "fails.py").write_text("def fails(task):\n    return 'failed'\n")
    subprocess.run([sys.executable, "-c", FAILS], check=True, cwd=tmp_path)
    assert Attempt(tmp_path / "runs/x", "claim").said == {"status": "failed"}
