"""The contract that every entry of every axis keeps; a new entry is picked up by itself.

The laws are those that `hymba-lab check` tries on anybody's components (`hymba_lab/testing`). A
newcomer needs nothing here; options without a default take their value from `examples.py`.
"""

import pytest
from examples import EXAMPLES, REGISTRIES, VARIANTS, spec_of

from hymba_lab.testing import WIRES, Law, Subject, laws_of_axis
from hymba_lab.testing.battery import OTHERS

D_MODEL = 8
OFF = {(f"model.{axis}", "none") for axis in ("meta_tokens", "mlp", "short_conv")}
TOKENS = {"files", "shards", "corpora"}  # of the user's disk: their laws are in the tests of data

ENTRIES = [(path, name) for path, registry in REGISTRIES.items() for name in registry]
TRIED = [(path, name) for path, name in ENTRIES if (path, name) not in OFF and name not in TOKENS]
TRIED += list(VARIANTS)
every_entry = pytest.mark.parametrize(("path", "name"), ENTRIES)


def test_every_axis_has_its_laws() -> None:
    assert set(REGISTRIES) == set(WIRES) | set(OTHERS), "a new axis: say how it is built and tested"


def test_the_table_names_no_entry_that_is_gone() -> None:
    assert set(EXAMPLES) <= set(ENTRIES)


@every_entry
def test_an_entry_says_what_it_does(path: str, name: str) -> None:
    assert (REGISTRIES[path].entry(name).__doc__ or "").strip()


@pytest.mark.parametrize("path", ["model.meta_tokens", "model.mlp"])
def test_off_is_none(path: str) -> None:
    assert REGISTRIES[path].build(spec_of(path, "none"), D_MODEL) is None


@pytest.mark.parametrize(
    ("path", "name", "law"),
    [
        pytest.param(path, name, law, id=f"{path}-{name}-{law.name}")
        for path, name in TRIED
        for law in laws_of_axis(path)
    ],
)
def test_law(path: str, name: str, law: Law) -> None:
    law.holds(Subject(REGISTRIES[path], spec_of(path, name)))
