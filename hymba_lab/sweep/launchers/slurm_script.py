"""What `sbatch` is given: the options of a job and its script."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from hymba_lab.errors import ConfigError
from hymba_lab.sweep.launchers.needs import Needs
from hymba_lab.sweep.launchers.worker import LEFT

_EARLY_S = 60  # Slurm may send its signal so much earlier than asked
_START_S = 60  # until a trial makes its first step
_GOING_S = 60  # in which a coordinator leaves
_LEAST_MINUTES = 5  # of a coordinator: to begin, to do something, to hear that it must go


def check_needs(needs: Needs, leave_s: int) -> None:
    """Refuse a time limit within which no trial can start and save."""
    least = leave_s + _EARLY_S + _START_S
    if needs.minutes is not None and 60 * needs.minutes < least:
        raise ConfigError(
            f"minutes: {needs.minutes} is too short for Slurm: it may ask a trial to leave "
            f"{leave_s + _EARLY_S} s before the end (leave_s: {leave_s}); give at least "
            f"{-(-least // 60)} minutes, or lower launcher.leave_s."
        )
    if needs.trials_per_gpu > 1:
        raise ConfigError(
            "trials_per_gpu: Slurm gives whole GPUs to a job; where your cluster shares them, say "
            "so with gres, e.g. gres: shard:1, and leave trials_per_gpu away."
        )


def options(
    name: str, needs: Needs, log: Path, leave_s: int, further: Sequence[str], requeue: bool = False
) -> list[str]:
    """Return the options of one job, as `sbatch` takes them."""
    named = {
        "job-name": name, "output": str(log).replace("%", "%%"), "open-mode": "append",
        "time": needs.minutes, "cpus-per-task": needs.cpus,
        "mem": None if needs.memory_gb is None else f"{round(needs.memory_gb * 1000)}M",
        "nodes": 1 if needs.devices > 1 else None,
        "gpus": needs.gpus if needs.gpus and not needs.gres else None, "gres": needs.gres,
        "partition": needs.partition, "account": needs.account, "qos": needs.qos,
        "constraint": needs.constraint, "signal": f"B:USR2@{leave_s}",
    }  # fmt: skip
    lines = [f"--{key}={_quoted(str(value))}" for key, value in named.items() if value is not None]
    return [*lines, "--requeue" if requeue else "--no-requeue", *further]


def script(
    asked: Sequence[str], setup: Sequence[str], n_threads: int, command: Sequence[str]
) -> str:
    """Return a script with these options and setup lines that runs a command."""
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in asked),
        "set -e",
        f"trap 'exit {LEFT}' USR1 USR2 TERM",
        *setup,
        f"cd {shlex.quote(os.getcwd())}",
        f"export OMP_NUM_THREADS={n_threads} MKL_NUM_THREADS={n_threads}",
        "export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}",
        f"exec {shlex.join(command)}",
    ]
    return "\n".join(lines) + "\n"


def coordinator_script(
    name: str,
    needs: Needs,
    log: Path,
    command: Sequence[str],
    environment: Mapping[str, str],
    further: Sequence[str],
) -> str:
    """Return the script of a coordinator that is a job itself; Slurm starts it again if need be.

    Of the `further` options of every job it gets those that ask for no GPU; what it is given
    itself goes before them. Raises `ConfigError` for a time in which it could do nothing.
    """
    if needs.minutes is not None and needs.minutes < _LEAST_MINUTES:
        raise ConfigError(
            f"coordinator: minutes: {needs.minutes} is too short: Slurm may tell it to go "
            f"{_GOING_S + _EARLY_S} s before the end, and it takes as long to begin; give "
            f"coordinator.minutes, at least {_LEAST_MINUTES}."
        )
    plain = [option for option in further if not _OF_GPUS.match(option)]
    asked = [*plain, *options(name, needs, log, _GOING_S, [], requeue=True)]
    exports = [f"export {key}={shlex.quote(value)}" for key, value in environment.items()]
    return script(asked, [*needs.setup, *exports], 1, command)


_OF_GPUS = re.compile(r"--(tres-per-|[\w-]*(gpu|gres))")


def _quoted(value: str) -> str:
    """Return a value as a line of #SBATCH takes it: a backslash keeps what it would read."""
    if value.replace("@", "").isalnum():
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
