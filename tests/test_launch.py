"""What a process waits like, its threads and its GPUs are settled before torch is imported."""

import concurrent.futures
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT

from hymba_lab.errors import LaunchError
from hymba_lab.sweep.launchers import local
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

    def sleeps(task):
        import time
        time.sleep(float(Path("sleeps").read_text()) if Path("sleeps").exists() else 60)
        return "done"

    def raises(task):
        raise ValueError("no good")

    class Odd(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one} and {two}")

    def odd(task):
        raise Odd(1, 2)

    def exits(task):
        import os
        os._exit(7)

    def leaves(task):
        import os, signal
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as before it was told whom to answer
        os.kill(os.getpid(), signal.SIGTERM)

    def hears(task):
        import signal
        return str(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
"""
WORKER = """if 1:
    from pathlib import Path
    from types import SimpleNamespace
    import began
    from hymba_lab.runs.root_id import root_id
    from hymba_lab.sweep.launchers import forked, local as launch
    from hymba_lab.sweep.launchers.base import Site
    from hymba_lab.sweep.launchers.needs import Needs

    import concurrent.futures, contextlib
    import psutil
    from hymba_lab.processes.calls import ProcessEnded

    forked._PRELOAD = "json"

    def workers():
        found = []
        while not found:
            with contextlib.suppress(psutil.NoSuchProcess):  # a server that was killed just now
                found = [p for server in psutil.Process().children() for p in server.children()]
        return found

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
    import time
    launcher = launch.ForkServer(Site("test", n_workers=4))
    for pause_s in (0, 0.001, 0.01, 0.1, 1):  # the server imports, forks, the workers begin, work
        futures = [launcher.submit(began.sleeps, task) for _ in range(6)]
        time.sleep(pause_s)
        launcher.stop()
        for future in futures:
            assert isinstance(future.exception(), (concurrent.futures.CancelledError, ProcessEnded))
        launcher = launch.ForkServer(Site("test", n_workers=4))
    print("stopped")
"""
EARLY = """
    launcher = launch.ForkServer(Site("test", n_workers=1))
    first = launcher.submit(began.sleeps, task)
    workers()[0].kill()
    print(launcher.why(first.exception()).reason)
    print(launcher.submit(began.hears, task).result())
    launcher.stop()
"""
GOES_ON = """
    import time
    Path("sleeps").write_text("2")
    launcher = launch.ForkServer(Site("test", n_workers=1))
    future = launcher.submit(began.sleeps, task)
    workers()
    time.sleep(0.5)
    [server] = [p for p in psutil.Process().children() if p.children()]
    server.kill()
    print(future.result())
    Path("sleeps").write_text("60")
    future = launcher.submit(began.sleeps, task)
    worker = workers()[0]
    time.sleep(0.5)
    [server] = [p for p in psutil.Process().children() if p.children()]
    server.kill()
    time.sleep(0.2)
    worker.kill()
    print(launcher.why(future.exception()).reason)
    launcher.stop()
"""
ENDS = """
    launcher = launch.ForkServer(Site("test", n_workers=1, timeout_s=3))
    why = launcher.why(launcher.submit(began.FUNCTION, task).exception())
    print(f"{why.reason}: {why.message}")
    launcher.stop()
"""
KILLED = """
    import time
    launcher = launch.ForkServer(Site("test", n_workers=1))
    launcher.submit(began.hears, task).result()
    below = psutil.Process().children()
    for process in below[BOTH]:
        process.kill()
    time.sleep(0.2)  # nobody but multiprocessing may wait for its own
    for _ in range(3):  # one may be asked of a server that ends
        future = launcher.submit(began.hears, task)
        if future.exception() is None:
            break
        assert launcher.why(future.exception()).reason == "node_lost", future.exception()
    second = future.result()
    assert psutil.Process().children() != below
    launcher.stop()
    print(len(below), second, sep="\\n")
"""
OF_RAY = """
    import os, signal, threading
    from hymba_lab.sweep.launchers.ray import in_fork

    def said(function, limit_s=None):
        try:
            return in_fork(function, task, limit_s)
        except Exception as error:
            return error.reason

    for place in "3", "5":
        os.environ["CUDA_VISIBLE_DEVICES"] = place
        print(said(began.sees))
    print(said(began.raises), said(began.exits), said(began.sleeps, 1))
    threading.Timer(1, os.kill, [os.getpid(), signal.SIGTERM]).start()
    print(said(began.sleeps), said(began.hears))
    print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
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
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=env,
        cwd=folder,
        timeout=300,
    )
    assert not done.stderr or folder is None, done.stderr
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


@pytest.mark.slow
def test_workers_are_stopped_at_any_moment_without_a_word(tmp_path: Path) -> None:
    """`run` refuses any; those that wait for a place do not begin."""
    assert run(ALONE + STOPS, tmp_path, CUDA_VISIBLE_DEVICES="4") == "stopped\n"


def test_a_worker_killed_before_it_begins_costs_its_attempt_alone(tmp_path: Path) -> None:
    assert run(ALONE + EARLY, tmp_path, CUDA_VISIBLE_DEVICES="4").split() == ["crash", "True"]


@pytest.mark.slow
def test_a_trial_goes_on_when_the_server_that_began_it_is_killed(tmp_path: Path) -> None:
    code = ALONE + GOES_ON
    assert run(code, tmp_path, CUDA_VISIBLE_DEVICES="4").split() == ["done", "node_lost"]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("raises", "crash: ValueError: no good"),
        ("odd", "crash: RuntimeError: Odd: 1 and 2"),
        ("exits", "crash: the worker ended with exit code 7"),
        ("leaves", "preempted: asked to leave before it trained"),
        pytest.param(
            "sleeps",
            "timeout: the trial's time limit passed; raise trial_timeout_minutes",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_how_a_worker_ends_is_told_as_it_was(function: str, said: str, tmp_path: Path) -> None:
    code = ALONE + ENDS.replace("FUNCTION", function)
    assert run(code, tmp_path, CUDA_VISIBLE_DEVICES="4").strip() == said


def test_a_script_that_asks_is_not_run_again_by_its_trials(tmp_path: Path) -> None:
    """Multiprocessing would, and wants `if __name__ == "__main__"` around all of it."""
    (tmp_path / "asks.py").write_text(ALONE + THREADS.replace("began_with", "hears"))
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    (tmp_path / "began.py").write_text(BEGAN)
    asked = [sys.executable, "asks.py"]
    done = subprocess.run(asked, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=300)
    assert (done.stdout.split(), done.stderr) == (["True"], "")


@pytest.mark.slow
def test_a_worker_of_ray_outlives_its_trials_and_tells_how_they_ended(tmp_path: Path) -> None:
    """Each sees the GPU of its own task; who asks the worker to leave asks the trial."""
    assert run(ALONE + OF_RAY, tmp_path).split() == [
        "3", "5", "crash", "crash", "timeout", "preempted", "True", "True"
    ]  # fmt: skip
    assert not list(tmp_path.glob("runs/x/attempt.*"))


@pytest.mark.slow
@pytest.mark.parametrize("who", [":", ":1", "1:"])
def test_killed_helpers_are_started_anew_without_a_word(who: str, tmp_path: Path) -> None:
    """The fork server, Python's resource tracker, both; the new ones, too, are deaf to Ctrl-C."""
    code = ALONE + KILLED.replace("BOTH", who)
    assert run(code, tmp_path, CUDA_VISIBLE_DEVICES="4").split() == ["2", "True"]


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


@pytest.mark.slow
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


class Unheard(concurrent.futures.Future[str]):
    """A future whose callbacks have not run yet when it is seen to be done."""

    def add_done_callback(self, fn: Any) -> None: ...


@pytest.mark.parametrize("devices", [1, 2])
def test_the_gpus_of_a_trial_that_has_ended_are_free_at_once(
    devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial that is sent between a trial's end and its callbacks has GPUs of its own, too."""
    sent: list[tuple[Unheard, str]] = []

    class Trials:
        def __init__(self, n: int) -> None: ...

        def submit(self, function: Any, task: Any, environment: Any, timeout_s: Any) -> Unheard:
            sent.append((Unheard(), environment["CUDA_VISIBLE_DEVICES"]))
            return sent[-1][0]

    monkeypatch.setattr(local, "ForkedTrials", Trials)
    monkeypatch.setattr(local, "visible_gpus", lambda: ["0", "1"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    needs = Needs(devices=devices)
    launcher = ForkServer(Site("test", needs=needs))
    task: Any = SimpleNamespace(needs=needs)
    running = [launcher.submit(str, task) for _ in range(launcher.capacity)]
    assert sorted(",".join(own for _, own in sent).split(",")) == ["0", "1"]
    for _ in range(3):
        ended = running.pop(0)
        ended.set_result("")
        (own,) = (own for future, own in sent if future is ended)
        running.append(launcher.submit(str, task))
        assert sorted(sent[-1][1].split(",")) == sorted(own.split(","))


def test_a_trial_that_ends_while_it_is_looked_at_gives_its_gpu_back_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its future may be running when it is first asked, and done a moment later."""

    class EndsWhenAsked(Unheard):
        asked = 0

        def done(self) -> bool:
            self.asked += 1
            return self.asked > 1

    seen: list[str] = []

    class Trials:
        def __init__(self, n: int) -> None: ...

        def submit(self, function: Any, task: Any, environment: Any, timeout_s: Any) -> Unheard:
            seen.append(environment.get("CUDA_VISIBLE_DEVICES", "none"))
            return EndsWhenAsked()

    monkeypatch.setattr(local, "ForkedTrials", Trials)
    monkeypatch.setattr(local, "visible_gpus", lambda: ["0", "1"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    launcher, task = ForkServer(Site("test")), SimpleNamespace(needs=Needs())
    for _ in range(2):
        launcher.submit(str, task)
    launcher.submit(str, task)
    assert sorted(seen[:2]) == ["0", "1"]
    assert len(launcher._places) + sum(len(own) for _, own in launcher._taken) == 2
