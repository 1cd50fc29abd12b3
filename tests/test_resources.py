"""What a cluster is asked for: one YAML, checked like every other, no part of an identity."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from sweeping import SWEEP, Lab

from hymba_lab.errors import ConfigError, LaunchError, TrialFailed, TrialInterrupted
from hymba_lab.sweep.launch_plan import launch_notes
from hymba_lab.sweep.launchers import slurm_queue
from hymba_lab.sweep.launchers.attempt import Attempt, is_of_another, read_job, write_job
from hymba_lab.sweep.launchers.base import Site, launchers
from hymba_lab.sweep.launchers.needs import Needs
from hymba_lab.sweep.launchers.slurm import Slurm
from hymba_lab.sweep.launchers.slurm_endings import how_it_ended
from hymba_lab.sweep.launchers.slurm_queue import State
from hymba_lab.sweep.launchers.slurm_refusals import SlurmBusy
from hymba_lab.sweep.launchers.slurm_script import options
from hymba_lab.sweep.observers.state import StateFile, new_state_file
from hymba_lab.sweep.resources import load_resources
from hymba_lab.sweep.run import make_launcher

CLUSTER = """\
launcher: {name: slurm, leave_s: 60}
defaults: {cpus: 2, minutes: 60, setup: ["source /shared/bin/activate"]}
scales:
  tiny: {gpus: 1, partition: gpu}
rows:
  gate: {memory_gb: 1.5, gpus: 2}
"""


def test_a_row_goes_before_its_scale_and_that_before_the_defaults(
    write: Callable[[str, str], Path],
) -> None:
    resources = load_resources(write("cluster.yaml", CLUSTER), None)
    assert resources.spec.name == "slurm"
    setup = ("source /shared/bin/activate",)
    assert resources.needs("nano", "mean") == Needs(cpus=2, minutes=60, setup=setup)
    assert resources.needs("tiny", "mean") == Needs(
        cpus=2, minutes=60, gpus=1, partition="gpu", setup=setup
    )
    assert resources.needs("tiny", "gate", 2) == Needs(
        devices=2, cpus=2, minutes=60, gpus=2, memory_gb=1.5, partition="gpu", setup=setup
    )
    assert load_resources(write("cluster.yaml", CLUSTER), "ray").spec.name == "ray"
    assert load_resources(None, None).spec.name == "local"


def test_null_takes_back_what_stands_below(write: Callable[[str, str], Path]) -> None:
    """The coordinator was to wait for a node of the GPUs' kind, and no word let it off."""
    text = (
        "defaults: {cpus: 2, gpus: 2, constraint: a100, setup: [module load x]}\n"
        "rows: {mean: {gpus: null, cpus: null, setup: null}}\n"
        "coordinator: {constraint: null, cpus: 1}\n"
    )
    resources = load_resources(write("cluster.yaml", text), "slurm")
    assert resources.coordinator == Needs(cpus=1, setup=("module load x",))
    assert resources.needs("nano", "mean") == Needs(constraint="a100")
    with pytest.raises(ConfigError, match=r"^mean: .* no GPU is asked for"):
        resources.needs("nano", "mean", 2)
    with pytest.raises(ConfigError, match=r"yaml:1:\d+: gpus: 2, but .* is 3"):
        resources.needs("nano", "gate", 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("defaults: {gpu: 1}", ["cluster.yaml:1:12", "gpus"]),
        ("defaults: {gpus: 1.5}", ["cluster.yaml:1:12", "defaults.gpus"]),
        ("defaults: {minutes: 0}", ["cluster.yaml:1:12", "minutes"]),
        ('defaults: {partition: "a\\n#SBATCH --wrap"}', ["cluster.yaml:1:12", "partition"]),
        ("launcher: {name: slrum}", ["cluster.yaml:1:1", "slurm"]),
        ("launcher: {name: slurm, poll: 5}", ["cluster.yaml:1:", "poll_s"]),
        ("plugins: [nowhere.py]", ["cluster.yaml:1:", "there is no file nowhere.py"]),
        ("[]", ["cluster.yaml:1:1", "mapping"]),
    ],
)
def test_a_fault_is_said_at_its_place(
    write: Callable[[str, str], Path], text: str, said: list[str]
) -> None:
    with pytest.raises(ConfigError) as refused:
        load_resources(write("cluster.yaml", text), None)
    for part in said:
        assert part in str(refused.value)


def test_rows_and_launchers_that_do_not_exist_are_named(
    write: Callable[[str, str], Path], tmp_path: Path
) -> None:
    sweep = Lab(tmp_path, SWEEP).session().sweep
    resources = load_resources(write("cluster.yaml", "rows: {gaet: {gpus: 1}}"), None)
    with pytest.raises(ConfigError, match=r"cluster.yaml:1:8: rows.gaet: .* Did you mean 'gate'"):
        resources.check(["mean", "gate"], sweep)
    with pytest.raises(ConfigError, match=r"--launcher slrum: .* Did you mean 'slurm'"):
        load_resources(None, "slrum")


def test_a_scale_that_its_base_calls_otherwise_is_not_passed_over(tmp_path: Path) -> None:
    """`--scale 125m` with a base of `scale: 125M` would ask for no GPU at all."""
    lab = Lab(tmp_path, SWEEP)
    text = "\n".join(line for line in SWEEP.splitlines() if not line.startswith("base:"))
    lab.write("sweep.yaml", text + "\nscale: big\n")
    lab.write("scales/big.yaml", "base: ../tiny.yaml\n")
    lab.write("cluster.yaml", "scales: {big: {gpus: 1}}")
    resources = load_resources(tmp_path / "cluster.yaml", None)
    with pytest.raises(ConfigError, match=r"cluster\.yaml:1:10: scales\.big: .*says scale: tiny"):
        resources.check(["mean", "gate"], lab.session().sweep)
    resources.check(["mean", "gate"], lab.session("scale=big").sweep)


PLUGIN = """\
from hymba_lab.sweep.launchers.base import Launcher, launchers

@launchers.register("queue_of_mine")
class Mine(Launcher):
    def __init__(self, site, *, server: str = "here"):
        self.server = server
"""


def test_a_trial_gets_as_many_gpus_as_it_trains_on(write: Callable[[str, str], Path]) -> None:
    resources = load_resources(write("cluster.yaml", CLUSTER), None)
    assert resources.needs("tiny", "gate", 2).devices == 2
    with pytest.raises(ConfigError, match=r"cluster\.yaml:4:.*ask for gpus: 2, or train on fewer"):
        resources.needs("tiny", "mean", 2)
    with pytest.raises(ConfigError, match=r"cluster\.yaml:6:.*ask for gpus: 4"):
        resources.needs("tiny", "gate", 4)
    with pytest.raises(ConfigError, match=r"cluster\.yaml:6:.*ask for gpus: 1, or train on more"):
        resources.needs("tiny", "gate", 1)
    shared = load_resources(write("shared.yaml", "defaults: {gpus: 1, trials_per_gpu: 2}"), "ray")
    assert shared.needs("tiny", "gate").trials_per_gpu == 2
    with pytest.raises(ConfigError, match=r"trials_per_gpu: 2.*leave trials_per_gpu away"):
        shared.needs("tiny", "gate", 2)


def test_several_devices_under_a_queue_train_on_cores_only_where_that_is_said(
    write: Callable[[str, str], Path],
) -> None:
    """Eight ranks shared one core without a word."""
    for launcher in ("slurm", "ray"):
        silent = load_resources(write("cluster.yaml", "defaults: {cpus: 2}"), launcher)
        with pytest.raises(ConfigError, match=r"gate: training\.devices is 8.*or gpus: 0 to train"):
            silent.needs("tiny", "gate", 8)
        assert silent.needs("tiny", "gate", 1).gpus == 0
    assert load_resources(None, "local").needs("tiny", "gate", 8).devices == 8
    for said in ("gpus: 0", "gres: gpu:a100:8"):
        told = load_resources(write("told.yaml", f"defaults: {{{said}}}"), "slurm")
        assert told.needs("tiny", "gate", 8).devices == 8


def test_a_rows_devices_are_held_against_its_own_gpus(
    tmp_path: Path, write: Callable[[str, str], Path]
) -> None:
    """Rows of other devices than the defaults have gpus for were refused with them."""
    lab = Lab(tmp_path, SWEEP)
    rows = {"mean": {}, "gate": {"training.devices": 2, "model.fusion": {"name": "gate"}}}
    lab.edit(axes={"fusion": rows})
    text = "launcher: {name: slurm}\ndefaults: {gpus: 1}\nrows: {gate: {gpus: GPUS}}"
    good = load_resources(write("good.yaml", text.replace("GPUS", "2")), None)
    make_launcher(lab.session(), good, None, 1)
    bad = load_resources(write("bad.yaml", text.replace("GPUS", "4")), None)
    with pytest.raises(ConfigError, match=r"bad\.yaml:3:.*ask for gpus: 2, or train on more"):
        make_launcher(lab.session(), bad, None, 1)


def test_hours_on_a_cluster_are_those_of_its_time_limits(tmp_path: Path) -> None:
    """What a step takes on the machine of the plan was told as GPU-hours of the cluster."""
    lab = Lab(tmp_path, SWEEP)
    session, minutes = lab.session(), "defaults: {gpus: 1, minutes: 30}"
    for said, told in [
        (minutes, "4 runs to make, 2.00 hours, 2.00 GPU-hours at most if each ends in one job"),
        ("{}", "4 runs to make, hours not known; give minutes."),
    ]:
        resources = load_resources(lab.write("cluster.yaml", said), "slurm")
        notes = launch_notes(session, resources, Slurm(Site("sweep")), {})
        assert notes[0].startswith(f"slurm: {told}")


def test_a_plugin_adds_a_launcher(write: Callable[[str, str], Path]) -> None:
    write("mine.py", PLUGIN)
    text = "plugins: [mine.py]\nlauncher: {name: queue_of_mine, server: there}"
    resources = load_resources(write("cluster.yaml", text), None)
    try:
        built = launchers.build(resources.spec, Site("sweep"))
        assert vars(built)["server"] == "there"
    finally:
        launchers.remove("queue_of_mine")


def test_resources_change_no_identity(tmp_path: Path) -> None:
    lab = Lab(tmp_path, SWEEP)
    lab.write("cluster.yaml", CLUSTER)
    plain = [job.identity for job in lab.session().planner.jobs({})]
    resources = load_resources(tmp_path / "cluster.yaml", None)
    assert resources.asked("tiny", "gate").gpus == 2
    assert [job.identity for job in lab.session().planner.jobs({})] == plain


def test_the_script_of_a_job_says_all_that_was_asked(tmp_path: Path) -> None:
    slurm = Slurm(Site("sweep", n_threads=3), leave_s=60, python="/shared/python")
    needs = Needs(
        gpus=1, cpus=2, memory_gb=1.5, minutes=60, partition="gpu", account="lab", qos="high",
        constraint="a100|h100", setup=("module load cuda",),
    )  # fmt: skip
    lines = slurm.plan("gate", needs, tmp_path).splitlines()
    assert lines[0] == "#!/bin/bash"
    options = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    assert {
        "--time=60", "--cpus-per-task=2", "--mem=1500M", "--gpus=1", "--partition=gpu",
        "--account=lab", "--qos=high", '--constraint="a100|h100"', "--no-requeue",
        '--signal="B:USR2@60"', "--open-mode=append",
    } <= {option.replace('"append"', "append") for option in options} | {
        '--open-mode=append'
    }  # fmt: skip
    assert not any("--nodes" in option for option in options)
    several = slurm.plan("gate", replace(needs, devices=2, gpus=2), tmp_path)
    assert "#SBATCH --nodes=1\n" in several  # its ranks are processes of one job step
    assert "module load cuda" in lines
    assert lines.index("module load cuda") > lines.index("trap 'exit 75' USR1 USR2 TERM")
    assert "export OMP_NUM_THREADS=3 MKL_NUM_THREADS=3" in lines
    assert lines[-1].startswith("exec /shared/python -m hymba_lab.sweep.launchers.worker ")


def test_a_time_in_which_no_trial_can_save_is_refused(tmp_path: Path) -> None:
    slurm = Slurm(Site("sweep"), leave_s=120)
    with pytest.raises(ConfigError, match="give at least 4 minutes"):
        slurm.plan("gate", Needs(minutes=3), tmp_path)
    with pytest.raises(ConfigError, match=r"gres: shard:1"):
        slurm.plan("gate", Needs(trials_per_gpu=2), tmp_path)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (State("COMPLETED"), None),
        (State("FAILED", exit_code=1), "crash"),
        (State("FAILED", signal=9), "crash"),
        (State("FAILED", exit_code=75), "preempted"),
        (State("FAILED", exit_code=76), "node_lost"),  # as the local launcher says it
        (State("FAILED", signal=12), "preempted"),  # USR2 before Python stood
        (State("FAILED", exit_code=143), "preempted"),
        (State("FAILED", exit_code=77), "timeout"),
        (State("FAILED", exit_code=78), "refused"),
        (State("OUT_OF_MEMORY"), "out_of_memory"),
        (State("TIMEOUT"), "timeout"),
        (State("PREEMPTED"), "preempted"),
        (State("CANCELLED"), "cancelled"),
        (State("NODE_FAIL"), "node_lost"),
        (None, "node_lost"),
    ],
)
def test_slurm_says_why_a_job_ended(
    tmp_path: Path, state: State | None, reason: str | None
) -> None:
    attempt = Attempt(tmp_path, "claim")
    attempt.log.write_text("step 1\nRuntimeError: it broke\n\n")
    why = how_it_ended("7", state, attempt)
    if reason is None:
        assert why is None
        return
    interrupted = reason in ("preempted", "cancelled", "node_lost")
    assert isinstance(why, TrialInterrupted if interrupted else TrialFailed)
    assert why.reason == reason
    if reason == "crash":
        assert "its log ends with: RuntimeError: it broke" in why.message


@pytest.mark.parametrize(
    "said",
    ["Zero Bytes were transmitted or received", "Slurm backup controller in standby mode",
     "slurm_load_jobs error: something nobody has seen"],
)  # fmt: skip
def test_a_queue_that_cannot_be_read_is_asked_again(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_queue.subprocess, "run", answering(1, said))
    monkeypatch.setattr(slurm_queue.shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(SlurmBusy):
        slurm_queue.listed(["7"])


def test_a_machine_without_a_queue_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_queue.shutil, "which", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LaunchError, match="there is no squeue here"):
        slurm_queue.listed(["7"])


def test_a_submission_is_tried_again_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_queue, "_AGAIN_S", 0.01)
    monkeypatch.setattr(slurm_queue.subprocess, "run", answering(1, "Socket timed out"))
    with pytest.raises(LaunchError, match="Socket timed out; it takes no job now: try again"):
        slurm_queue.patiently(partial(slurm_queue.submit, "#!/bin/bash"), 0.05)
    tries = iter([answering(1, "Socket timed out"), answering(0, "42")])
    monkeypatch.setattr(slurm_queue.subprocess, "run", lambda *a, **k: next(tries)(*a, **k))
    assert slurm_queue.patiently(partial(slurm_queue.submit, "#!/bin/bash"), 5.0) == "42"


def test_a_job_belongs_to_the_coordinator_that_asked_for_it_while_that_lives(
    tmp_path: Path,
) -> None:
    """Ctrl-C in a second one cancelled the jobs of the first, which it had begun to watch."""
    run, sweep = tmp_path / "runs" / "0123", tmp_path / "runs" / "sweeps" / "fusion-nano"
    first, second = new_state_file(sweep), new_state_file(sweep)
    state = StateFile(sweep, lambda: 4, "slurm", path=first)
    write_job(run, "slurm", "claim", "42", first)
    noted = read_job(run)
    assert noted["job"] == "42" and not Path(noted["by"]).is_absolute()
    assert is_of_another(noted, run, second) and not is_of_another(noted, run, first)
    task = SimpleNamespace(folder=run, claim="claim", needs=Needs())
    assert Slurm(Site("fusion", state_file=second)).attach(task) is None
    state.close()
    assert not is_of_another(noted, run, second)
    write_job(run, "slurm", "claim", "42", None)  # as jobs were noted before
    assert not is_of_another(read_job(run), run, second)


def answering(code: int, said: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A Slurm command that ends so, with words on both streams."""
    return lambda command, **_: subprocess.CompletedProcess(command, code, said, said)


def test_a_path_is_one_word_of_an_option_and_none_of_its_own(tmp_path: Path) -> None:
    """A quotation mark ended the word, and Slurm wrote what follows a percent sign anew."""
    log = Path('/home/a "b" 100%j\\c/job.log')
    (line,) = [one for one in options("n", Needs(), log, 60, []) if one.startswith("--output")]
    assert line == '--output="/home/a \\"b\\" 100%%j\\\\c/job.log"'
