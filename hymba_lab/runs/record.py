"""The record of a run: what `result.json` holds, made in one place and checked in one place.

`train` and `sweep` write the same record, so that a run that both share says the same of itself.
What is read back was perhaps edited, cut or copied from another folder: `checked` refuses what is
not the record of the run that was asked for.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hymba_lab.errors import FailureReason, Interruption, StoreError
from hymba_lab.runs.provenance import (
    CODE_VERSION,
    commit,
    computed_on,
    content_of,
    is_dirty,
    versions,
)

FORMAT = 1

_MOST_BYTES = 64_000_000  # a record of a hundred thousand validations has a tenth of it
_AGAIN = "delete the folder to train this run again."

Count = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[float, Field(ge=0)]
Metrics = Annotated[dict[str, float], Field(min_length=1)]


class _Read(BaseModel):
    """Read strictly, with room for what later versions add."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)


class Record(_Read):
    """A finished or pruned run, as `result.json` holds it."""

    format: int
    identity: str
    seed: Count
    metrics: Metrics
    history: list[tuple[Count, Metrics]]
    stopped_by: str | None
    n_steps: Annotated[int, Field(ge=1, lt=2**63)]
    seconds: Seconds
    tokens_per_second: Annotated[float, Field(allow_inf_nan=True)]  # NaN: no step of this session
    digest: str
    data_fingerprint: str
    code_version: int
    scale: str
    tokens: Count
    config: dict[str, Any]
    ended_by: dict[str, Any] | None = None
    commit: str = ""
    dirty: bool = False
    seconds_outside: float | None = None
    hardware: str | None = None
    n_threads: Annotated[int, Field(ge=1)] | None = None
    mlflow: dict[str, Any] = {}
    versions: dict[str, str] = {}
    plugins: dict[str, str] = {}  # file name -> sha256


class Failure(_Read):
    """Why a run has no result: `failure.json`."""

    reason: FailureReason | Interruption
    message: str
    attempts: Annotated[int, Field(ge=1)]


class Progress(_Read):
    """How far a run under way is: `progress.json`."""

    step: Count
    metrics: dict[str, Annotated[float, Field(allow_inf_nan=True)]]


Kind = TypeVar("Kind", bound=_Read)


class Measured(Protocol):
    """What training says of a run (`training.fit.FitResult`)."""

    @property
    def metrics(self) -> Mapping[str, float]: ...  # noqa: D102
    @property
    def history(self) -> Sequence[tuple[int, Mapping[str, float]]]: ...  # noqa: D102
    @property
    def n_steps(self) -> int: ...  # noqa: D102
    @property
    def seconds(self) -> float: ...  # noqa: D102
    @property
    def tokens_per_second(self) -> float: ...  # noqa: D102


def run_facts(
    config: Any, fingerprint: str, costs: Any, digest: str | None = None
) -> dict[str, Any]:
    """Return what is known of a run before it starts: a `Config`, its data, its `Costs`.

    `digest` is that of the configuration, where it is known: computing it takes a millisecond.
    """
    return {
        "digest": digest or config.digest,
        "data_fingerprint": fingerprint,
        "scale": config.scale,
        "tokens": config.training.tokens,
        "params": costs.params,
        "flops_per_token": costs.flops_per_token,
        "cache_bytes": costs.cache_bytes,
    }


def record_of(
    result: Measured,
    *,
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
    seed: int,
    n_threads: int,
    mlflow: Mapping[str, Any],
    stopped_by: str | None = None,
    ended_by: Mapping[str, Any] | None = None,
    outside_s: float | None = None,
) -> dict[str, Any]:
    """Return a run's record; `config` is resolved, `facts` are those of `run_facts`.

    `stopped_by` is the pruner's rule that gave the run up, `ended_by` the stop at which its task
    was solved. `outside_s` is the time [s] that the run took outside its
    training loop, where it was measured.
    """
    from hymba_lab.ops.status import chosen  # imports torch

    return {
        "seed": seed,
        "metrics": result.metrics,
        "history": result.history,
        "stopped_by": stopped_by,
        "ended_by": None if ended_by is None else dict(ended_by),
        "n_steps": result.n_steps,
        "seconds": result.seconds,
        "seconds_outside": outside_s,
        "tokens_per_second": result.tokens_per_second,
        "mlflow": dict(mlflow),
        "code_version": CODE_VERSION,
        "commit": commit().sha,
        "dirty": is_dirty(config.get("plugins", [])),
        "hardware": computed_on(),
        **chosen(),
        "versions": versions(),
        "n_threads": n_threads,
        "config": dict(config),
        "plugins": content_of(config.get("plugins", [])),
        **facts,
    }


def identity_of(digest: str, seed: int, data_fingerprint: str) -> str:
    """Return the sha256 of what determines a result: configuration, seed, data, code meaning."""
    parts = [digest, seed, data_fingerprint, CODE_VERSION]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read(path: Path, kind: type[Kind]) -> dict[str, Any] | None:
    """Return the JSON record at `path`, None where there is none.

    Raises `StoreError` with the file's name for anything that is not a whole record of its kind.
    """
    try:
        if not path.exists():
            return None
        if not path.is_file():
            raise StoreError(f"{path}: not a whole record: it is no file; {_AGAIN}")
        if path.stat().st_size > _MOST_BYTES:
            raise StoreError(f"{path}: not a record: larger than {_MOST_BYTES:,} bytes; {_AGAIN}")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise StoreError(f"{path}: not a whole record: {error}; {_AGAIN}") from None
    return parsed(path, text, kind)


def parsed(path: Path, text: str, kind: type[Kind]) -> dict[str, Any]:
    """Return the text of a record; `path` only stands in the `StoreError`."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        said = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise StoreError(f"{path}: not a whole record: {said}; {_AGAIN}") from None
    found = record.get("format", FORMAT) if isinstance(record, dict) else FORMAT
    if found != FORMAT:
        raise StoreError(
            f"{path}: format {found}, this version reads {FORMAT}; "
            "use another --root, or delete the folder to train this run again."
        )
    try:
        kind.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        needed = ", ".join(sorted(n for n, f in kind.model_fields.items() if f.is_required()))
        if fault["type"] in ("missing", "model_type") or not where:
            raise StoreError(f"{path}: not a record with {needed}; {_AGAIN}") from None
        raise StoreError(f"{path}: {where}: {fault['msg'].lower()}; {_AGAIN}") from None
    whole: dict[str, Any] = record
    return whole


def checked(path: Path, record: Mapping[str, Any], identity: str) -> None:
    """Refuse the record of another run than `identity`, or one whose facts were edited.

    `identity` may be the beginning of one, as a folder's name is.
    """
    given, shown = record["identity"], len(identity)  # a folder's name is the identity's beginning
    own = identity_of(record["digest"], record["seed"], record["data_fingerprint"])
    if given[:shown] == identity and given == own:
        return
    said = "belongs to another run" if given[:shown] != identity else "was edited"
    raise StoreError(
        f"{path}: {said}: identity {given[:12]} of seed {record['seed']} where "
        f"{identity[:12]} belongs; put the right file back, or {_AGAIN}"
    )
