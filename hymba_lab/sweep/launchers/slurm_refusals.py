"""What Slurm's complaints mean: it is away, it takes no more for now, or it never will."""

import re

from hymba_lab.errors import LaunchError


class SlurmBusy(Exception):
    """Slurm does not answer, or takes nothing at the moment; ask again later."""


class SlurmFull(SlurmBusy):
    """Slurm takes no more jobs of this kind while so many of this user wait or run."""


_AWAY = re.compile(
    r"temporarily|timed out|unable to contact|connection refused|connect failure|try again|"
    r"socket|slurm_persist|communication|in standby mode|zero bytes|receive failure|send failure",
    re.IGNORECASE,
)  # a controller that restarts

_NAMED = re.compile(r"(?<=specified: )\S+")  # what the user called a partition is no sign
_REASON = re.compile(r"\b(?:QOS|Assoc|Max)[A-Z]\w+")  # e.g. QOSMaxWallDurationPerJobLimit
_FULL = re.compile(r"SubmitJob|MaxSubmit|MaxJobs|GrpJobs|MaxSub", re.IGNORECASE)
_POLICY = re.compile(r"submit limit", re.IGNORECASE)  # a line that follows every such reason


def complaint(command: str, said: str) -> SlurmBusy | LaunchError:
    """Return what a command's complaint means.

    Of a job that policy refuses, the reason decides: how many jobs one may have changes by itself,
    what one job may ask for does not. Only where no reason is told, the line that stands below all
    of them is waited for.
    """
    text, signs = f"{command}: {said}", _NAMED.sub("", said)
    reasons = _REASON.findall(signs)
    if all(map(_FULL.search, reasons)) and (reasons or _POLICY.search(signs)):
        return SlurmFull(text)
    if reasons:
        return LaunchError(f"{text}; it never will: change what is asked for in --resources.")
    return SlurmBusy(text) if _AWAY.search(signs) else LaunchError(text)
