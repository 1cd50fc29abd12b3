"""A user's own components: found, checked and suggested like the package's own, and hashed."""

import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from conftest import TINY

from hymba_lab.config import all_registries, from_resolved, load_config, plugins
from hymba_lab.errors import ConfigError
from hymba_lab.model import build_model

Write = Callable[[str, str], Path]

PLUGIN = '''\
"""The larger of the two branches, channel by channel."""

import torch
from torch import Tensor, nn

from hymba_lab.components.fusion import fusions


@fusions.register("maximum")
class Maximum(nn.Module):
    """y = W max(a, s)."""

    def __init__(self, d_attn: int, d_ssm: int, d_model: int, *, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        self.out = nn.Linear(d_attn, d_model, bias=False)

    def forward(self, a: Tensor, s: Tensor) -> Tensor:
        return self.out(self.gain * torch.maximum(a, s))
'''
LISTED = "plugins: [mine.py]\n" + TINY
USED = LISTED.replace("{name: mean}", "{name: maximum, gain: 2.0}")


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    registries = all_registries().values()
    before = {registry.path: set(registry) for registry in registries}
    monkeypatch.setattr(plugins, "_loaded", dict(plugins._loaded))
    plugins.load_entry_points.cache_clear()
    yield
    for registry in registries:
        for name in set(registry) - before[registry.path]:
            registry.remove(name)
    plugins.load_entry_points.cache_clear()


@pytest.fixture
def used(write: Write) -> Path:
    write("mine.py", PLUGIN)
    return write("used.yaml", USED)


def fault(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return str(caught.value).replace(f"{path.parent}/", "")


# --- files


def test_a_file_outside_the_package_adds_a_component(used: Path) -> None:
    config = load_config(used)
    assert config.model.fusion.options() == {"gain": 2.0}
    model = build_model(config.model, 16)
    assert type(model.blocks[0].mixer.fusion).__name__ == "Maximum"
    assert model(torch.zeros(1, 4, dtype=torch.long)).shape == (1, 4, 16)


def test_a_plugins_component_is_checked_and_suggested(used: Path, write: Write) -> None:
    text = fault(write("a.yaml", USED.replace("maximum", "maximun")))
    assert text.startswith("a.yaml:9:12: model.fusion.name: no component 'maximun'")
    assert "gate, " in text and ", maximum, mean" in text and "Did you mean 'maximum'?" in text
    text = fault(write("b.yaml", USED.replace("gain: 2.0", "gian: 2.0")))
    assert text.startswith(
        "b.yaml:9:27: model.fusion.gian: no key 'gian'; choose one of name, gain"
    )
    text = fault(write("c.yaml", USED.replace("gain: 2.0", "gain: loud")))
    assert text.startswith("c.yaml:9:27: model.fusion.gain: input should be a valid number")


def test_a_plugin_is_found_from_the_file_that_lists_it(used: Path, write: Write) -> None:
    child = write("deep/below/child.yaml", "extends: ../../used.yaml\nname: child\n")
    assert load_config(child).plugins == [str(used.parent / "mine.py")]


def test_an_override_lists_a_plugin_from_where_one_stands(
    used: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(used.parent)
    config = load_config(tiny, ["plugins=[mine.py]", "model.fusion={name: maximum, gain: 2.0}"])
    assert config.plugins == [str(used.parent / "mine.py")]
    assert config.digest == load_config(used).digest


def test_only_who_lists_a_plugin_may_use_it(used: Path, write: Write) -> None:
    """Another process, and the digest, would not know it."""
    config = load_config(used)
    text = fault(write("a.yaml", USED.replace("plugins: [mine.py]\n", "")))
    assert text.startswith("a.yaml:8:12: model.fusion.name: no component 'maximum'; choose one of ")
    choices = text.partition("choose one of ")[2].rstrip(".").split(", ")
    assert {"concat", "mean", "sum"} <= set(choices)
    assert "maximum" not in choices
    assert build_model(config.model, 16), "what was loaded before still works"


def test_the_digest_knows_a_plugins_content_not_its_place(used: Path, write: Write) -> None:
    plain = load_config(write("plain.yaml", TINY)).digest
    listed = load_config(write("listed.yaml", LISTED)).digest
    assert listed != plain
    write("mine.py", PLUGIN + "# a remark\n")
    assert load_config(used.with_name("listed.yaml")).digest not in (plain, listed)
    write("mine.py", PLUGIN)
    assert load_config(used.with_name("listed.yaml")).digest == listed


def test_a_copy_elsewhere_has_the_same_digest(used: Path, write: Write) -> None:
    digest = load_config(used).digest
    plugins.load_plugin(write("mine.py", "# nothing\n"), list(all_registries().values()))
    write("copy/mine.py", PLUGIN)
    assert load_config(write("copy/used.yaml", USED)).digest == digest


def test_what_was_hashed_is_what_runs(used: Path, write: Write) -> None:
    """An edit of the same length within a second, which Python's own cache would miss."""
    for gain in ("3.0", "4.0"):
        write("mine.py", PLUGIN.replace("gain: float = 1.0", f"gain: float = {gain}"))
        path = write("default.yaml", USED.replace(", gain: 2.0", ""))
        assert load_config(path).model.fusion.options() == {"gain": float(gain)}
    assert not list(used.parent.rglob("*.pyc"))


@pytest.mark.slow
def test_another_process_resolves_to_the_same_digest(used: Path) -> None:
    config = load_config(used)
    code = (
        "import json, sys; from hymba_lab.config import from_resolved; "
        "print(from_resolved(json.load(sys.stdin)).digest)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(config.resolved()),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.stdout.strip() == config.digest, ran.stderr
    assert from_resolved(config.resolved()).digest == config.digest


def test_a_plugins_modules_are_pickled_by_name(used: Path) -> None:
    fusion = build_model(load_config(used).model, 16).blocks[0].mixer.fusion
    twin = pickle.loads(pickle.dumps(fusion))
    assert type(twin) is type(fusion) and twin.gain == 2.0


def test_the_hash_is_that_of_the_file(used: Path) -> None:
    sha256 = plugins.load_plugin(used.with_name("mine.py"), list(all_registries().values()))
    assert sha256 == hashlib.sha256(PLUGIN.encode()).hexdigest()


# --- faults


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\ny = = 2\n", "mine.py:2: SyntaxError"),
        ("import torch\n\nraise ValueError('broken')\n", "mine.py:3: ValueError: broken"),
        ("import no_such_module\n", "mine.py:1: ModuleNotFoundError: "),
        ("def f():\n    return 1 / 0\n\n\nf()\n", "mine.py:2: ZeroDivisionError"),
        (PLUGIN.replace('"maximum"', '"mean"'), "mine.py:9: model.fusion: 'mean' is already "),
        (PLUGIN.replace("*, gain: float = 1.0", "**gain: float"), "mine.py:9: TypeError: Maximum"),
        ("\0", "mine.py:1: SyntaxError"),
    ],
    ids=["syntax", "raises", "import", "inside", "taken name", "no schema", "no text"],
)  # fmt: skip
def test_a_broken_plugin_is_shown_at_its_line(write: Write, source: str, said: str) -> None:
    write("mine.py", source)
    text = fault(write("a.yaml", USED))
    assert text.startswith(said), text


def test_a_mended_plugin_loads(write: Write) -> None:
    """A component registered before the fault does not stand in its own way."""
    path = write("used.yaml", USED)
    write("mine.py", PLUGIN)
    load_config(path)
    for _ in range(2):
        write("mine.py", PLUGIN + "\nraise ValueError('later')\n")
        assert fault(path).startswith("mine.py:21: ValueError: later")
    write("mine.py", PLUGIN)
    assert load_config(path).model.fusion.options() == {"gain": 2.0}


def test_a_component_that_a_plugin_dropped_is_gone(used: Path, write: Write) -> None:
    load_config(used)
    write("mine.py", PLUGIN.replace('"maximum"', '"largest"'))
    text = fault(used)
    assert "no component 'maximum'; choose one of concat, " in text and ", largest, mean" in text


# --- entry points of installed packages


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Pretend that a package with this module is installed and declares it."""

    def install(module: str, source: str) -> None:
        (tmp_path / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, module, raising=False)
        point = EntryPoint(name="mine", value=module, group="hymba_lab.plugins")
        found = {"hymba_lab.plugins": [point]}
        monkeypatch.setattr(plugins, "entry_points", lambda group: found.get(group, []))

    return install


def test_an_installed_package_adds_its_components(
    installed: Callable[[str, str], None], write: Write
) -> None:
    installed("maximum_package", PLUGIN)
    path = write("a.yaml", USED.replace("plugins: [mine.py]\n", ""))
    assert load_config(path).model.fusion.options() == {"gain": 2.0}


def test_a_broken_package_is_named(installed: Callable[[str, str], None], tiny: Path) -> None:
    installed("broken_package", "raise ValueError('broken')\n")
    text = fault(tiny)
    assert text.startswith(
        "entry point mine = broken_package of group hymba_lab.plugins: ValueError"
    )
    assert "mend or uninstall" in text
