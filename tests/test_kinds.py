"""A file given to the wrong command: it is told which command takes it."""

from pathlib import Path

import pytest
from conftest import ROOT, tracked

from hymba_lab.claims.file import load_claims
from hymba_lab.config import load_config
from hymba_lab.config.kinds import KINDS, refuse_another
from hymba_lab.config.yaml_file import read_yaml
from hymba_lab.errors import ConfigError

SHIPPED = {
    "a sweep": "sweeps/*.yaml",
    "a corpus": "experiments/corpora/*.yaml",
    "papers' claims": "analysis/claims/*.yaml",
    "the scale of sweeps": "sweeps/scales/*.yaml",
    "the export of a sweep": "results/*/export.json",
}


@pytest.mark.parametrize("kind", SHIPPED)
def test_shipped_files_are_of_their_kind_alone(kind: str) -> None:
    files = [path for path in tracked(SHIPPED[kind]) if path.name != "README.md"]
    assert files
    for path in files:
        data = read_yaml(path).data
        refuse_another(data, path, kind)
        with pytest.raises(ConfigError, match=KINDS[kind][1]):
            refuse_another(data, path, "an experiment")


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("sweeps/fusion.yaml", "a sweep, not an experiment; hymba-lab sweep takes it"),
        ("results/fusion-nano/export.json", "the export of a sweep, not an experiment"),
        ("experiments/corpora/fineweb_edu.yaml", "a corpus, not an experiment; hymba-lab token"),
    ],
)
def test_an_experiment_is_asked_for(file: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(ROOT / file)


def test_claims_are_asked_for() -> None:
    path = Path(ROOT / "experiments/nano.yaml")
    with pytest.raises(ConfigError, match="an experiment, not papers' claims; hymba-lab train"):
        load_claims(path)
