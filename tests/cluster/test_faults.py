"""Every fault on every launcher: the same table, one trainer at a time, no run left open.

`retries` is 0 unless the fault is the trial's own: whatever else ends an attempt must not use one.
"""

import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faults
import pytest
from faults import Server, Site, endings, faulty_lab, left_open, trained_beside
from services import postgres, ray_cluster, script, slurm
from test_one_table import address_of, numbers

pytestmark = pytest.mark.slow

# (fault, moment, how its attempt ends, retries that it uses); "" = it goes on, "?" = it may
ANYWHERE: list[tuple[str, str, str, int]] = [
    ("kill_worker", "before", "crash", 1),
    ("kill_worker", "after", "crash", 1),
    ("ask_to_leave", "before", "preempted", 0),
    ("ask_to_leave", "after", "preempted", 0),
    ("kill_coordinator", "before", "", 0),
    ("kill_coordinator", "after", "", 0),
    ("hang", "before", "timeout", 1),
    ("hang", "after", "timeout", 1),
    ("want_memory", "before", "out_of_memory", 1),
    ("want_memory", "after", "out_of_memory", 1),
    ("fill_disk", "after", "disk?", 1),
    ("restart_postgres", "after", "", 0),
    ("lose_mlflow", "after", "", 0),
]
OF_LOCAL = [("kill_step", "after", "", 0)]  # trials outlive the server that they were forked from
OF_SLURM = [
    ("kill_step", "after", "node_lost", 0),
    ("kill_node", "after", "node_lost", 0),
    ("cancel", "before", "cancelled", 0),
    ("cancel", "after", "cancelled", 0),
    ("requeue", "after", "preempted?", 0),
    ("preempt", "before", "preempted", 0),
    ("preempt", "after", "preempted", 0),
    ("run_out_of_time", "after", "timeout", 1),
    ("leave_in_time", "after", "preempted", 0),
]
OF_RAY = [("kill_node", "before", "node_lost", 0), ("kill_node", "after", "node_lost", 0)]
ACCIDENTS = {"hang": "hang", "want_memory": "memory", "run_out_of_time": "hang"}
# those that run before every change; the others before a release
ALWAYS = {("ray", "kill_node", "after"), ("ray", "kill_worker", "after"),
          ("slurm", "preempt", "after")}  # fmt: skip


def table(launcher: str, *kinds: list[tuple[str, str, str, int]]) -> Iterator[Any]:
    for fault, moment, reason, retries in (one for kind in kinds for one in kind):
        always = (launcher, fault, moment) in ALWAYS
        yield pytest.param(
            launcher, fault, moment, reason, retries, id=f"{launcher}-{fault}-{moment}",
            marks=pytest.mark.cluster if always else pytest.mark.campaign,
        )  # fmt: skip


CASES = [
    *table("ray", OF_RAY, ANYWHERE),
    *table("slurm", OF_SLURM, ANYWHERE),
    *table("local", OF_LOCAL, ANYWHERE),
]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    site = Site("local", faulty_lab(tmp_path_factory.mktemp("undisturbed")))
    site.start()
    site.finish()
    return numbers(site.lab)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """Mount a disk of 40 MB."""
    place = tmp_path / "disk"

    def mounted() -> Path:
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(place)]
        done = subprocess.run(mount, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        return place

    yield mounted
    subprocess.run(["umount", "-l", str(place)], capture_output=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[[], Server]]:
    """Start an MLflow server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        made = Server(tmp_path / "server", free.getsockname()[1])

    def started() -> Server:
        made.folder.mkdir()
        made.start()
        return made

    yield started
    made.stop()


@pytest.mark.parametrize(("launcher", "fault", "moment", "reason", "retries"), CASES)
def test_the_table_is_the_same_and_nothing_is_left_behind(
    undisturbed: list[dict[str, str]],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    launcher: str,
    fault: str,
    moment: str,
    reason: str,
    retries: int,
) -> None:
    folder = request.getfixturevalue("disk")() if fault == "fill_disk" else tmp_path
    keys = {"trial_timeout_minutes": 3} if fault == "hang" else {}
    site = Site(launcher, faulty_lab(folder / "lab", retries=retries, **keys))
    if launcher != "local":
        site.service = request.getfixturevalue("slurm" if launcher == "slurm" else "ray_cluster")
    _stores(site, fault, request)
    if fault in ACCIDENTS:
        site.prepare(ACCIDENTS[fault], moment)
    site.start()
    try:
        getattr(faults, fault)(site, moment)
        site.finish()
    finally:
        assert site.command is not None
        if site.command.poll() is None:
            site.command.terminate()
            site.command.communicate(timeout=60)
        _repair(site)
    assert numbers(site.lab) == undisturbed
    assert trained_beside(site.lab) == []
    assert left_open(site) == {"FINISHED": 2}
    may, reason = reason.endswith("?"), reason.rstrip("?")
    ended = endings(site.lab)  # a node takes both runs with it where both stood on it
    assert set(ended) == ({reason} if reason else set()) or (may and not ended), ended
    assert not ended or f": {reason}: " in site.out or reason == "disk"


def _stores(site: Site, fault: str, request: pytest.FixtureRequest) -> None:
    """Give the sweep the store that is to fail it."""
    if fault == "restart_postgres":
        site.notes["postgres"] = folder = request.getfixturevalue("postgres")
        name = f"{site.launcher}_{fault}"
        site.store_uri = address_of(folder, f"{name}_mlflow")[0]
        study, _ = address_of(folder, f"{name}_optuna")
        site.options = ("--tracking-uri", site.store_uri, "--study-uri", study)
    if fault == "lose_mlflow":
        site.notes["server"] = server = request.getfixturevalue("server")()
        site.store_uri = f"http://127.0.0.1:{server.port}"
        site.options = ("--tracking-uri", site.store_uri)


def _repair(site: Site) -> None:
    """Bring a node back that the fault took."""
    node = site.notes.get("node")
    if node is None or site.service is None:
        return
    if site.launcher == "slurm":
        script("slurm.sh", "node", site.service, node)
        subprocess.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], check=False)
    else:
        script("ray.sh", "second", site.service)
