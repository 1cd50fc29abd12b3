"""`hymba-lab status SWEEP`: what a sweep is doing, wherever its coordinator runs."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hymba_lab import cli, flags
from hymba_lab.atomic import json_of
from hymba_lab.errors import StoreError, suggest


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="hymba-lab status", description="What a sweep is doing: running, waiting, failed."
    )
    parser.add_argument("sweep", metavar="SWEEP", help="its file, or its name in runs/sweeps/")
    parser.add_argument(
        "--log", metavar="RUN", help='print the log of a trial, e.g. "gate, seed 0" or its identity'
    )
    flags.add(parser, "root", "json")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the state; 0 with a coordinator at work or queued, or nothing left to do, else 1."""
    options = arguments().parse_args(argv)
    folder = sweep_folder(options.root, options.sweep)
    if options.log:
        print(log_of(options.root, folder, options.log), end="")
        return 0
    state = state_of(options.root, folder)
    print(json.dumps(state, indent=1) if options.json else told(folder.name, state))
    return 0 if state["coordinators"] or state["queued"] or not state["left"] else 1


def sweep_folder(root: Path, given: str) -> Path:
    """Return the folder of a sweep that was named by its file or its name."""
    folder = root / "runs" / "sweeps"
    name = Path(given).stem if given.endswith((".yaml", ".yml")) else Path(given).name
    if name.strip(".") and (folder / name).is_dir():
        return folder / name
    known = sorted(path.name for path in folder.glob("*") if path.is_dir())
    found = [one for one in known if one.rpartition("-")[0] == name]
    if len(found) == 1:
        return folder / found[0]
    if found:
        raise StoreError(f"{given}: run at several scales; name one: {', '.join(found)}.")
    if not known:
        raise StoreError(f"{folder}: no sweep has run here; name its folder with --root.")
    raise StoreError(f"{folder}: there is no sweep {given!r}" + suggest(given, known))


def state_of(root: Path, folder: Path) -> dict[str, Any]:
    """Return running, failed and finished runs, and the time left [s] where it is known."""
    from hymba_lab.sweep.detach import queued
    from hymba_lab.sweep.launchers.slurm_leaving import left_behind
    from hymba_lab.sweep.observers.state import coordinators, last_state

    alive = coordinators(folder)
    newest = max(alive, key=lambda one: float(one["started"]), default=None) or last_state(folder)
    running = {run["identity"]: run for one in alive for run in one["running"]}
    for identity, run in running.items():
        run.update(_progress(root, identity))
    done, total = sum((newest or {}).get("done", {}).values()), int((newest or {}).get("total", 0))
    seconds = (newest or {}).get("seconds")
    n_training = sum(bool(run["step"]) for run in running.values())
    left = max(0, total - done)
    return {
        "coordinators": [
            {"holder": one["holder"], "launcher": one["launcher"], "trouble": one.get("trouble")}
            for one in alive
        ],
        "queued": None if alive else queued(folder),
        "left_behind": left_behind(root, folder, {one["file"] for one in alive}),
        "done": done, "total": total, "left": left,
        "running": [run for run in running.values() if run["step"] is not None],
        "waiting": [run for run in running.values() if run["step"] is None],
        "interrupted": (newest or {}).get("interrupted", {}),
        "failed": (newest or {}).get("failed", []),
        "n_failed": (newest or {}).get("done", {}).get("failed", 0),
        "seconds_left": seconds * left / max(1, n_training) if seconds and left else None,
    }  # fmt: skip


def told(name: str, state: dict[str, Any]) -> str:
    """Return the state as text."""
    lines = []
    for one in state["coordinators"]:
        holder = one["holder"]
        job = f", {holder['job']}" if holder.get("job") else ""
        lines.append(
            f"coordinator: {holder['host']}, process {holder['pid']}{job} ({one['launcher']})"
        )
        if one["trouble"]:
            lines.append(f"  waits: {one['trouble']}")
    if not lines and state["queued"]:
        lines = [f"coordinator: Slurm job {state['queued']} waits to begin, or is beginning"]
    if not lines:
        ended = state["total"] and not state["left"]
        then = "writes its table anew" if ended else "goes on from here"
        lines = [f"no coordinator is running; the same sweep command {then}"]
    head = f"{name}: {state['done']} of {state['total']} runs done, {state['n_failed']} failed"
    if state["seconds_left"]:
        head += f", about {cli.span(state['seconds_left'])} left"
    lines = [head, *lines]
    if state["left_behind"]:
        lines.append(
            f"may run without a coordinator: Slurm job {', '.join(state['left_behind'])}; the same "
            "sweep command finds them again, hymba-lab stop ends them"
        )
    for run in state["running"]:
        lines.append(f"running: {run['name']}: step {run['step']}/{run['n_steps']}")
    if state["waiting"]:
        lines.append(f"waiting: {len(state['waiting'])}: {state['waiting'][0]['name']} ...")
    lines += [f"{reason}: {n} times" for reason, n in sorted(state["interrupted"].items())]
    lines += [
        f"failed: {run['name']}: {run['reason']}: {run['message']}" for run in state["failed"]
    ]
    return "\n".join(lines)


def log_of(root: Path, folder: Path, run: str) -> str:
    """Return the log of a run that is named as in the status, or by its identity."""
    from hymba_lab.sweep.launchers.attempt import LOG

    state = state_of(root, folder)
    named = {
        one["name"]: one["identity"]
        for kind in ("running", "waiting", "failed")
        for one in state[kind]
    }
    identity = str(named.get(run, run))
    path = root / "runs" / identity[:20] / LOG
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        raise StoreError(
            f"{path}: there is no log of {run!r}" + suggest(run, list(named))
        ) from None


def _progress(root: Path, identity: str) -> dict[str, Any]:
    """Return the step that a run has reached; None when it has not begun."""
    folder = root / "runs" / identity[:20]
    try:
        found = json_of(folder / "progress.json")
        return {"step": int(found["step"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"step": None}


if __name__ == "__main__":
    cli.run(main)
