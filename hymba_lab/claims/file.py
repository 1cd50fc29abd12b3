"""Files of claims: what each paper claims, and what counts as reproduced."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hymba_lab.claims.cells import PaperTables, Place
from hymba_lab.claims.schema import COSTS, Claim, ClaimsFile
from hymba_lab.config.kinds import refuse_another
from hymba_lab.config.messages import checked
from hymba_lab.config.yaml_file import Document, read_yaml
from hymba_lab.errors import ConfigError, suggest
from hymba_lab.probes.columns import COLUMNS

__all__ = ["COSTS", "Claims", "load_all", "load_claims"]

_OF_PROBES = ("where", "against_where", "relative_to", "apart_from", "per")


@dataclass(frozen=True)
class Claims:
    """A claims file with the paper's effects looked up."""

    file: ClaimsFile
    document: Document
    folder: Path
    paper: Mapping[str, tuple[float, str]]  # id -> effect, and how it comes about

    def wrong(self, place: Place, said: str) -> ConfigError:
        """Return an error that stands at a place of the file."""
        return self.document.wrong(place, said)


def load_all(path: Path) -> list[Claims]:
    """Load a file, or every file of a folder, which are read as one: an id stands for one claim.

    Raises `ConfigError` for a folder without files and for an id in two of them.
    """
    if not path.is_dir():
        return [load_claims(path)]
    files = sorted(path.glob("*.yaml"))
    if not files:
        raise ConfigError(f"{path}: holds no file of claims (*.yaml).")
    found, owners = [load_claims(file) for file in files], dict[str, Path]()
    for file, claims in zip(files, found, strict=True):
        for name in claims.file.claims:
            if name in owners:
                raise claims.wrong(["claims", name], f"stands in {owners[name]}, too; rename one.")
            owners[name] = file
    return found


def load_claims(path: Path) -> Claims:
    """Load and check the file; a `ConfigError` names file:line:column of every fault."""
    document = read_yaml(path)
    refuse_another(document.data, path, "papers' claims")
    file = checked(document, ClaimsFile)
    for name, claim in file.claims.items():
        _check(document, name, claim)
    tables = PaperTables(document, path.parent / file.paper)
    paper = {
        name: tables.effect(name, claim.paper)
        for name, claim in file.claims.items()
        if claim.paper is not None
    }
    return Claims(file, document, path.parent, paper)


def _check(document: Document, name: str, claim: Claim) -> None:
    """What one key cannot see of another."""
    place: Place = ["claims", name]
    given = [k for k, v in claim.reproduced_if.model_dump().items() if v is not None]
    if len(given) != 1:
        said = "give one of above, below, within."
        raise document.wrong([*place, "reproduced_if"], said)
    if (claim.against is None) == (claim.against_where is None):
        said = "give against (other rows), or with a probe against_where."
        raise document.wrong(place, said)
    if isinstance(claim.same_evidence, dict):
        for other in claim.same_evidence:
            if other not in claim.others:
                said = f"no other row {other!r}" + suggest(other, claim.others)
                raise document.wrong([*place, "same_evidence"], said)
    if claim.probe is None:
        for key in _OF_PROBES:
            if getattr(claim, key):
                raise document.wrong([*place, key], "is for claims with a probe.")
    elif claim.probe not in COLUMNS:
        said = f"no probe {claim.probe!r}" + suggest(claim.probe, COLUMNS)
        raise document.wrong([*place, "probe"], said)
    elif claim.metric is not None:
        raise document.wrong([*place, "metric"], "a probe has its own value; name one only.")
