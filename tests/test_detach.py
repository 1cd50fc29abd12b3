"""A coordinator that is a job of Slurm: what it asks for, how it goes on, how it is stopped."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from slurm_stub import FULL, SlurmStub, slurm_stub
from sweeping import SWEEP, Lab

from hymba_lab.commands import status, stop
from hymba_lab.errors import ConfigError, LaunchError
from hymba_lab.runs.lease import take
from hymba_lab.sweep import detach as detached
from hymba_lab.sweep.detach import SCRIPT, again, detach
from hymba_lab.sweep.interrupts import leaving_on_signals
from hymba_lab.sweep.launchers import slurm_leaving, slurm_queue
from hymba_lab.sweep.launchers.attempt import write_job
from hymba_lab.sweep.launchers.base import Site
from hymba_lab.sweep.launchers.needs import NOTHING_ASKED
from hymba_lab.sweep.launchers.slurm import Slurm
from hymba_lab.sweep.observers.state import StateFile, new_state_file
from hymba_lab.sweep.resources import load_resources
from hymba_lab.sweep.run import make_launcher

__all__ = ["slurm_stub"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "runs" / "sweeps" / "fusion-nano"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def begun(folder: Path, slurm_stub: SlurmStub) -> str:
    """The job of a coordinator that was detached."""
    slurm = Slurm(Site("fusion-nano"))
    told = detach(folder, "fusion-nano", ["fusion"], launcher=slurm, needs=NOTHING_ASKED)
    assert "Slurm job 41" in told
    return "41"


def stopped(root: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    capsys.readouterr()
    return stop.main(["fusion", "--root", str(root), *words]), capsys.readouterr().out


def trial_of(root: Path, by: Path, name: str, job: str) -> None:
    """A run that a coordinator has asked for, and that holds its claim."""
    run = root / "runs" / name
    lease = take(run)
    assert lease is not None
    write_job(run, "slurm", lease.claim, job, by)


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_a_job_that_has_not_told_of_itself_is_a_coordinator(
    tmp_path: Path, folder: Path, begun: str, state: str, slurm_stub: SlurmStub,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """`stop` said that none was running, and it began an hour, or a second, later."""
    slurm_stub.jobs[begun] = state
    assert status.main(["fusion", "--root", str(tmp_path)]) == 0
    assert "Slurm job 41 waits to begin, or is beginning" in capsys.readouterr().out
    code, out = stopped(tmp_path, capsys)
    assert (code, "Slurm job 41, its coordinator, is cancelled" in out) == (0, True)
    assert slurm_stub.cancelled() == {begun}
    assert "no coordinator is running" in stopped(tmp_path, capsys)[1]


def test_a_coordinator_at_work_is_asked_and_not_cancelled(
    tmp_path: Path, folder: Path, begun: str, slurm_stub: SlurmStub,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    slurm_stub.jobs[begun] = "RUNNING"
    state = StateFile(folder, lambda: 4, "slurm")
    assert stopped(tmp_path, capsys, "--wait", "0")[0] == 1
    assert not slurm_stub.cancelled() and (folder / "stop").exists()
    state.close()


def test_what_slurm_does_not_say_is_not_told_as_stopped(
    tmp_path: Path, folder: Path, begun: str, slurm_stub: SlurmStub,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    slurm_stub.away = "Unable to contact slurm controller"
    with pytest.raises(LaunchError, match=r"is not known, and goes on .*run this command again"):
        stopped(tmp_path, capsys)


@pytest.mark.parametrize("coordinator", ["waits again", "was killed"])
def test_trials_that_lost_their_coordinator_are_ended(
    tmp_path: Path, folder: Path, begun: str, coordinator: str, slurm_stub: SlurmStub,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """They trained on: the coordinator that `stop` asks had begun to wait again, or was gone."""
    monkeypatch.setattr(slurm_leaving, "_SAVING_S", 0.0)
    slurm_stub.jobs[begun] = "PENDING" if coordinator == "waits again" else "FAILED"
    mine, others = new_state_file(folder), new_state_file(folder.with_name("other-nano"))
    trial_of(tmp_path, mine, "waiting", "50")
    trial_of(tmp_path, mine, "training", "51")
    trial_of(tmp_path, mine, "ended", "52")
    trial_of(tmp_path, others, "of another sweep", "53")
    helped = StateFile(folder, lambda: 4, "slurm")
    trial_of(tmp_path, helped.path, "of one that still stops", "54")
    run = tmp_path / "runs" / "its lease was given back"
    write_job(run, "slurm", "claim", "55", mine)
    slurm_stub.jobs |= dict.fromkeys(("51", "53", "54", "55"), "RUNNING")
    slurm_stub.jobs |= {"50": "PENDING", "52": "COMPLETED"}
    status.main(["fusion", "--root", str(tmp_path)])
    told = capsys.readouterr().out
    assert "may run without a coordinator: Slurm job 52, 51, 50; the same sweep command" in told
    out = stopped(tmp_path, capsys, "--wait", "0")[1]
    assert "2 jobs of its trials are ended; they had lost their coordinator" in out
    assert {"50", "51"} <= slurm_stub.cancelled()
    assert not {"53", "54", "55"} & slurm_stub.cancelled()
    assert ["scancel", "--quiet", "--batch", "--signal=USR2", "51"] in slurm_stub.asked
    helped.close()


def test_what_a_job_wrote_before_it_was_requeued_is_no_life(
    tmp_path: Path, folder: Path, begun: str, slurm_stub: SlurmStub,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Preempted on another machine: its file is young, and its trials are nobody's."""
    state = StateFile(folder, lambda: 4, "slurm", job="Slurm job 41")
    trial_of(tmp_path, state.path, "waiting", "50")
    slurm_stub.jobs["50"] = "PENDING"
    code, out = stopped(tmp_path, capsys)
    assert (code, slurm_stub.cancelled()) == (0, {"41", "50"}), out
    state.close()


@pytest.fixture
def out_of_time(
    folder: Path, begun: str, slurm_stub: SlurmStub, monkeypatch: pytest.MonkeyPatch
) -> SlurmStub:
    """We are the coordinator's job, and may submit no other one."""
    monkeypatch.setenv(SCRIPT, str(folder / "coordinator.sh"))
    monkeypatch.setenv("SLURM_JOB_ID", begun)
    monkeypatch.setattr(slurm_queue, "_AGAIN_S", 0.01)
    slurm_stub.jobs[begun] = "RUNNING"
    slurm_stub.refuses = lambda script: FULL
    return slurm_stub


def test_a_coordinator_out_of_time_begins_anew_as_the_same_job(
    out_of_time: SlurmStub, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its next job found no room where one may submit no more, and the chain ended silently.

    Slurm ends the old start at once: its signal must not break off what is still to be written.
    """

    def hears_that_it_must_go() -> None:
        with leaving_on_signals(True):
            os.kill(os.getpid(), signal.SIGUSR2)
            time.sleep(20)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        with pytest.raises(SystemExit) as ended:
            hears_that_it_must_go()
        assert ended.value.code == 128 + signal.SIGTERM
        assert ["scontrol", "requeue", "41"] in out_of_time.asked
        assert out_of_time.jobs == {"41": "PENDING"}
        assert "Slurm job 41 goes on" in capsys.readouterr().out
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_where_jobs_are_not_requeued_another_one_is_submitted(
    out_of_time: SlurmStub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out_of_time.requeues, out_of_time.refuses = False, lambda script: ""
    assert again() == "42"
    assert (folder / "coordinator.job").read_text() == "42\n"
    monkeypatch.setattr(detached, "_LEAVING_S", 0.0)
    out_of_time.refuses = lambda script: FULL
    with pytest.raises(LaunchError, match="it takes no job now: try again later"):
        again()


CLUSTER = """\
launcher: {name: slurm, python: /shared/python, sbatch: [--exclude=n7, --gpu-bind=closest]}
defaults: {gres: "gpu:a100:1", gpus: 1, trials_per_gpu: 2, minutes: 60, setup: [module load x]}
"""


def coordinators_script(file: Path) -> str:
    resources = load_resources(file, None)
    options: dict[str, Any] = resources.spec.options()
    slurm = Slurm(Site("fusion"), **options)
    script = slurm.coordinator_script(
        "hymba-lab fusion", resources.coordinator, Path("c.log"), ["fusion"], {"A": "b"}
    )
    assert script is not None
    return script


def test_a_coordinators_job_holds_no_gpu_and_has_the_launchers_python_and_options(
    write: Callable[[str, str], Path],
) -> None:
    script = coordinators_script(write("cluster.yaml", CLUSTER))
    assert "gres" not in script and "gpu" not in script
    assert "#SBATCH --exclude=n7\n" in script and "#SBATCH --requeue\n" in script
    assert "module load x\nexport A=b\n" in script
    assert script.endswith("exec /shared/python -m hymba_lab.sweep fusion\n")
    own = CLUSTER + "coordinator: {gres: 'nvme:1'}\n"
    assert '--gres="nvme:1"' in coordinators_script(write("own.yaml", own))


def test_a_time_in_which_a_coordinator_does_nothing_is_refused(
    write: Callable[[str, str], Path],
) -> None:
    for minutes in (1, 4):
        text = CLUSTER + f"coordinator: {{minutes: {minutes}}}\n"
        with pytest.raises(ConfigError, match=r"give coordinator\.minutes, at least 5"):
            coordinators_script(write("cluster.yaml", text))
    assert "--time=5\n" in coordinators_script(
        write("cluster.yaml", CLUSTER + "coordinator: {minutes: 5}\n")
    )


@pytest.mark.parametrize(
    ("defaults", "said"),
    [
        ("minutes: 1", "give at least 4 minutes"),
        ("gpus: 4", "ask for gpus: 1, or train on more"),
        ("trials_per_gpu: 2", "gres: shard:1"),
    ],
)
def test_detaching_refuses_what_no_trial_could_be_given(
    tmp_path: Path, defaults: str, said: str, slurm_stub: SlurmStub
) -> None:
    """It stood in the log of a job, an hour later."""
    lab = Lab(tmp_path, SWEEP)
    file = lab.write("cluster.yaml", f"launcher: {{name: slurm}}\ndefaults: {{{defaults}}}")
    ended = lab.run("--detach", "--resources", str(file), launcher=make_launcher)
    assert ended.code == 2 and said in ended.err
    assert slurm_stub.asked == []


def test_a_detached_sweep_is_told_how_to_be_seen_and_stopped(
    tmp_path: Path, slurm_stub: SlurmStub
) -> None:
    lab = Lab(tmp_path, SWEEP)
    ended = lab.run("--detach", "--launcher", "slurm", launcher=make_launcher)
    assert ended.code == 0, ended.err
    assert "sweep-tiny: Slurm job 41 runs the sweep" in ended.out
    assert "End: hymba-lab stop sweep-tiny" in ended.out
    assert "--detach" not in slurm_stub.scripts["41"]
    job = (tmp_path / "runs" / "sweeps" / "sweep-tiny" / "coordinator.job").read_text()
    assert json.loads(job) == 41
