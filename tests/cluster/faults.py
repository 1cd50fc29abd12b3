"""What befalls a sweep on each launcher, and how the tests do it: on real processes, nodes, stores.

A sweep of two runs. Its component keeps a journal of who trained when, and does once what a test
asks of it: hang, or run out of memory, before or after the first checkpoint.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from conftest import TINY
from services import script
from sweeping import Lab

from hymba_lab.runs.lease import newest
from hymba_lab.runs.tracking import ROLE, Store, default_uri

PATIENCE_S = 900.0
WATCHED = '''\
"""A mean that writes down who computes it, and meets with an accident where one is prepared."""
import os
import resource
import time
from pathlib import Path

import torch
from torch import nn

from hymba_lab.components.fusion import fusions


@fusions.register("watched")
class Watched(nn.Module):
    def __init__(self, d_attn, d_ssm, d_model, *, gain: float = 1.0):
        super().__init__()
        self.a, self.s = nn.Linear(d_attn, d_model), nn.Linear(d_ssm, d_model)
        self.gain = gain

    def forward(self, a, s):
        log = Path(os.readlink("/proc/self/fd/1")) if not a.is_meta else None
        if log is not None and log.name == "trial.log":
            with (log.parent / "journal").open("a") as file:
                file.write(f"{os.getpid()} {time.time()} {os.getppid()}\\n")
            self.accident(log.parent)
        return self.gain * (self.a(a) + self.s(s))

    def accident(self, run):
        if (run.parents[1] / "slow").exists():
            time.sleep(0.2)
        begun = "after" if (run / "last.ckpt").exists() else "before"
        for what in ("hang", "memory", "cut"):
            try:
                os.rename(run.parents[1] / f"{what} {begun}", run / f"had {what}")  # once
            except OSError:
                continue
            if what == "hang":
                time.sleep(3600)
            if what == "cut":
                os._exit(3)
            now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (now + 2**24, now + 2**24))
            torch.ones(2**30)
'''
BASE = "plugins: [watched.py]\n" + TINY.replace("{name: mean}", "{name: watched}").replace(
    "tokens: 640, val_every: 5", "tokens: 19200, val_every: 100, checkpoint_every: 2"
)
TWO = """\
question: Does a smaller gain recall more?
base: tiny.yaml
metric: {name: val/recall_accuracy, goal: maximize}
seeds: [0]
axes:
  gain:
    one: {model.fusion: {name: watched, gain: 1.0}}
    half: {model.fusion: {name: watched, gain: 0.5}}
"""


def faulty_lab(folder: Path, **keys: Any) -> Lab:
    """A laboratory whose trials can be watched."""
    folder.mkdir(exist_ok=True, parents=True)
    lab = Lab(folder, TWO, BASE).with_store()
    lab.write("watched.py", WATCHED)
    lab.edit(**{"retries": 0, **keys})
    return lab


def until(happened: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    end = time.monotonic() + patience_s
    while not (found := happened()):
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)
    return found


@dataclass
class Site:
    """A sweep under way on one launcher."""

    launcher: str
    lab: Lab
    service: Path | None = None  # folder of slurm.sh or ray.sh
    options: tuple[str, ...] = ()
    command: "subprocess.Popen[str] | None" = None
    out: str = ""
    store_uri: str | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def start(self) -> None:
        """Start the command, as a user does."""
        if self.launcher == "slurm":
            text = "launcher: {name: slurm, poll_s: 0.5, leave_s: 10}\n"
            self.lab.write(
                "cluster.yaml", text + "defaults: {cpus: 1, memory_gb: 1, minutes: 30}\n"
            )
        if self.launcher == "ray":
            assert self.service is not None
            address = (self.service / "address").read_text().strip()
            text = f'launcher: {{name: ray, address: "{address}"}}\ndefaults: {{cpus: 2}}\n'
            self.lab.write("cluster.yaml", text)
        where = (
            ("--workers", "2")
            if self.launcher == "local"
            else ("--resources", str(self.lab.folder / "cluster.yaml"))
        )
        self.command = self.lab.start(*where, *self.options)

    def finish(self, code: int = 0) -> str:
        """Wait for the command's end; its output is kept."""
        assert self.command is not None
        out, err = self.command.communicate(timeout=PATIENCE_S)
        assert self.command.returncode == code, out + err
        self.out += out
        return out

    def begun(self, moment: str) -> Path:
        """Wait for a run that trains, before or after its first checkpoint; return its folder."""

        def found() -> Path | None:
            assert self.command is not None and self.command.poll() is None, (
                self.command and self.command.communicate()
            )
            for folder in sorted(self.lab.folder.glob("runs/*")):
                held = newest(folder) if folder.is_dir() else None
                trains = held is not None and held.holder.get("pid") != self.command.pid
                there = (folder / "last.ckpt").exists()
                if trains and (there if moment == "after" else not there):
                    return folder
            return None

        return Path(until(found))

    def trainer(self, folder: Path) -> psutil.Process:
        """The process that holds a run."""
        held = newest(folder)
        assert held is not None
        return psutil.Process(int(held.holder["pid"]))

    def job(self, folder: Path) -> str:
        """What Slurm calls the run's job."""
        return str(json.loads((folder / "job.json").read_text())["job"])

    def prepare(self, accident: str, moment: str) -> None:
        """Let the first trial that comes there have an accident, once."""
        (self.lab.folder / f"{accident} {moment}").touch()


def slurm_says(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


# --- what can befall it: site, moment -> nothing; the sweep goes on by itself afterwards


def kill_worker(site: Site, moment: str) -> None:
    site.trainer(site.begun(moment)).kill()


def ask_to_leave(site: Site, moment: str) -> None:
    site.trainer(site.begun(moment)).send_signal(signal.SIGTERM)


def kill_coordinator(site: Site, moment: str) -> None:
    """And start the same command again."""
    site.begun(moment)
    assert site.command is not None
    site.command.kill()
    site.command.communicate()
    site.start()


def kill_step(site: Site, moment: str) -> None:
    """What stands between the launcher's daemon and the trial: slurmstepd, or the fork server."""
    trainer = site.trainer(site.begun(moment))
    parent = trainer.parent()
    assert parent is not None
    expected = {"slurm": "slurmstepd", "local": "python", "ray": "raylet"}[site.launcher]
    assert expected in parent.name() or expected in " ".join(parent.cmdline()), parent
    parent.kill()


def kill_node(site: Site, moment: str) -> None:
    """slurmd, or the second raylet with all that it started."""
    folder = site.begun(moment)
    assert site.service is not None
    if site.launcher == "slurm":
        node = slurm_says("squeue", "-h", "-j", site.job(folder), "-o", "%N").strip()
        os.kill(int((site.service / f"slurmd.{node}.pid").read_text()), signal.SIGKILL)
        site.notes["node"] = node
        return
    second = int((site.service / "second.pid").read_text())
    until(
        lambda: any(_raylet_group(site, one) == second for one in site.lab.folder.glob("runs/*/"))
    )
    script("ray.sh", "kill", site.service, "second")
    site.notes["node"] = "second"


def _raylet_group(site: Site, folder: Path) -> int | None:
    """The group of the raylet whose worker's server started a run's process."""
    try:
        above = site.trainer(folder).parents()
        return next(os.getpgid(one.pid) for one in above if "raylet" in one.name())
    except (AssertionError, StopIteration, ProcessLookupError, psutil.Error):
        return None


def cancel(site: Site, moment: str) -> None:
    slurm_says("scancel", site.job(site.begun(moment)))


def requeue(site: Site, moment: str) -> None:
    """As an administrator does, whatever the job wants; it need not wait its two minutes."""
    job = site.job(site.begun(moment))
    slurm_says("scontrol", "update", f"jobid={job}", "Requeue=1")
    slurm_says("scontrol", "requeue", job)
    until(lambda: "PENDING" in slurm_says("squeue", "-h", "-j", job, "-o", "%T"))
    until(lambda: released(job))


def released(job: str) -> bool:
    """Let a job that was requeued begin at once."""
    done = subprocess.run(
        ["scontrol", "update", f"jobid={job}", "StartTime=now"], capture_output=True
    )
    return done.returncode == 0


def preempt(site: Site, moment: str) -> None:
    """A job of a higher partition takes the node for a moment."""
    folder = site.begun(moment)
    node = slurm_says("squeue", "-h", "-j", site.job(folder), "-o", "%N").strip()
    slurm_says(
        "sbatch", "--partition=high", f"--nodelist={node}", "--exclusive", "--output=/dev/null",
        "--wrap=sleep 3",
    )  # fmt: skip


def run_out_of_time(site: Site, moment: str) -> None:
    """The trial hangs and cannot answer the signal: Slurm ends it when its time is up."""
    folder = until(lambda: list(site.lab.folder.glob("runs/*/had hang")))[0].parent
    slurm_says("scontrol", "update", f"jobid={site.job(folder)}", "TimeLimit=1")


def leave_in_time(site: Site, moment: str) -> None:
    """Slurm asks the trial to leave before its time is up; it computes slowly until then."""
    folder = site.begun(moment)
    slow = site.lab.folder / "slow"
    slow.touch()
    job = site.job(folder)
    ran = slurm_says("squeue", "-h", "-j", job, "-o", "%M").strip().split(":")
    ran_s = sum(int(part) * 60**place for place, part in enumerate(reversed(ran)))
    slurm_says("scontrol", "update", f"jobid={job}", f"TimeLimit={(ran_s + 20) // 60 + 1}")
    until(lambda: endings(site.lab))
    slow.unlink()


def hang(site: Site, moment: str) -> None:
    """The trial's own limit (trial_timeout_minutes) ends it."""
    until(lambda: list(site.lab.folder.glob("runs/*/had hang")))


def want_memory(site: Site, moment: str) -> None:
    until(lambda: list(site.lab.folder.glob("runs/*/had memory")))


def fill_disk(site: Site, moment: str) -> None:
    """Then make room, and run the same command again."""
    site.begun(moment)
    ballast = site.lab.folder / "ballast"
    with ballast.open("wb") as file:
        try:
            while True:
                file.write(b"\0" * 65536)
                file.flush()
        except OSError:
            pass
    assert site.command is not None
    out, err = site.command.communicate(timeout=PATIENCE_S)
    assert site.command.returncode in (1, 2), out + err
    assert "Traceback" not in out + err, out + err
    site.out += out + err
    ballast.unlink()
    site.start()


def restart_postgres(site: Site, moment: str) -> None:
    site.begun(moment)
    script("postgres.sh", "restart", site.notes["postgres"])


def lose_mlflow(site: Site, moment: str) -> None:
    """The server is away for a minute."""
    site.begun(moment)
    server: Server = site.notes["server"]
    server.stop()
    time.sleep(60)
    server.start()


class Server:
    """An MLflow server with a database of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
                    "--port", str(self.port), "--workers", "1",
                    "--backend-store-uri", default_uri(self.folder),
                    "--artifacts-destination", str(self.folder / "artifacts"),
                ],
                stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
            )  # fmt: skip
        from urllib.request import urlopen

        def answers() -> bool:
            try:
                with urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2):
                    return True
            except OSError:
                return False

        until(answers)

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


# --- what must be so afterwards


def endings(lab: Lab) -> Counter[str]:
    """How often attempts ended before their time, by reason, over all runs."""
    found: Counter[str] = Counter()
    for path in lab.folder.glob("runs/*/endings.json"):
        found.update(json.loads(path.read_text()))
    return found


def left_open(site: Site) -> Counter[str]:
    """The states of the trials' runs in MLflow."""
    store = Store(site.store_uri or default_uri(site.lab.folder), site.lab.folder)
    runs = store.client.search_runs([store.experiment("sweep-tiny")], f"tags.`{ROLE}` = 'trial'")
    return Counter(run.info.status for run in runs)


def trained_beside(lab: Lab) -> list[str]:
    """Runs at which two processes computed by turns, with what they wrote."""
    found = []
    for journal in lab.folder.glob("runs/*/journal"):
        order = [line.split()[0] for line in journal.read_text().splitlines()]
        blocks = [pid for place, pid in enumerate(order) if not place or order[place - 1] != pid]
        if len(blocks) != len(set(blocks)):
            found.append(f"{journal.parent.name}: {blocks}")
    return found
