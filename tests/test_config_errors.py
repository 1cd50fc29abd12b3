"""What a wrong configuration is told: where, what was given, what is allowed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY

from hymba_lab.config import Config, load_config
from hymba_lab.config.yaml_file import parse_yaml, read_yaml
from hymba_lab.data.source import build_sources
from hymba_lab.errors import ConfigError
from hymba_lab.model import build_model
from hymba_lab.optim.schedules import schedules

Write = Callable[[str, str], Path]
FAULTS = read_yaml(Path(__file__).parent / "data" / "config_faults.yaml").data


def message(path: Path, overrides: tuple[str, ...] = ()) -> str:
    """What loading the file says, with the folder of the test left out."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value).replace(f"{path.parent}/", "")


# --- the schema


@pytest.mark.parametrize("case", FAULTS["schema"])
def test_the_schema_says_where_what_and_what_else(write: Write, case: str) -> None:
    old, new, said = (FAULTS["schema"][case][key] for key in ("old", "new", "said"))
    assert TINY.count(old) == 1
    text = message(write("tiny.yaml", TINY.replace(old, new)))
    assert text.startswith(f"tiny.yaml:{said[0]}"), text
    assert all(part in text for part in said), text
    assert "\n" not in text and "pydantic" not in text


def test_all_faults_are_told_at_once(write: Write) -> None:
    text = TINY.replace("d_model: 16", "d_model: x").replace("{name: mean}", "{name: maen}")
    lines = message(write("tiny.yaml", text.replace("rows: 4", "rows: 0"))).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "model.d_model", "model.fusion.name", "data.recall.rows",
    ]  # fmt: skip


# --- the file itself

FILES: dict[str, tuple[str | bytes, list[str]]] = {
    "empty": ("", [":1:1: holds nothing", "a mapping"]),
    "only comments": ("# words\n", [":1:1: holds nothing", "a mapping"]),
    "a list": ("- a\n- b\n", [":1:1: holds a list", "a mapping"]),
    "a word": ("word\n", [":1:1: holds 'word'", "a mapping"]),
    "duplicated key": ("a: 1\nb: 2\na: 3\n", [":3:1: ", "duplicate key", '"a"']),
    "tab": ("a:\n\tb: 1\n", [":2:1: ", r"'\t'"]),
    "open bracket": ("a: [1, 2\nb: 3\n", [":2:", "not valid YAML", "','"]),
    "undefined alias": ("a: *b\n", [":1:4: ", "undefined alias 'b'"]),
    "alias of itself": ("a:\n  b: &x\n    c: *x\n", [":2:6: ", "a.b.c: an alias contains itself"]),
    "list of itself": ("a: &x [1, *x]\n", [":1:4: ", "a.1: an alias contains itself"]),
    "merge of a number": ("a: {<<: 3}\n", [":1:9: ", "expected a mapping", "merging"]),
    "number as a key": ("a: {b: 0, 1: 2}\n", [":1:11: a: the key 1 is not text", "quotes"]),
    "null as a key": ("~: 2\n", [":1:1: top level: the key None is not text"]),
    "list as a key": ("? [a]\n: 2\n", [":1:3: top level: the key", "is not text"]),
    "unknown tag": ("a: {b: !mine 3}\n", [":1:8: ", "a.b: the tag !mine is not", "write text"]),
    "date": ("a: 2024-01-02\n", [":1:4: ", "a: the date 2024-01-02 is not", "(in quotes)"]),
    "set": ("a: !!set {x}\n", [":1:4: ", "a: the tag set is not allowed"]),
    "binary": ("a: !!binary aGk=\n", [":1:4: ", "a: the tag binary is not allowed"]),
    "two documents": ("a: 1\n---\nb: 2\n", [":2:1: ", "another document"]),
    "control character": ("a: 1\nb: 'x\0'\n", [":2:6: ", "control character"]),
    "half a character": ('a: "\\ud800"\n', [":1:1: a: ", "surrogate"]),
    "not UTF-8": (b"a: 1\nb: caf\xe9\n", [":2:7: byte 11 is not UTF-8", "save it as UTF-8"]),
    "UTF-16": ("a: 1\n".encode("utf-16"), [":1:1: byte 0 is not UTF-8"]),
}  # fmt: skip


@pytest.mark.parametrize(("content", "said"), FILES.values(), ids=list(FILES))
def test_a_file_that_is_no_mapping_of_plain_values(
    tmp_path: Path, content: str | bytes, said: list[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    text = message(path)
    assert text.startswith(f"bad.yaml{said[0]}"), text
    assert all(part in text for part in said), text


def test_no_tag_constructs_anything(tmp_path: Path) -> None:
    for kind in (
        "python/object/apply:os.mkdir",
        "python/object/new:os.mkdir",
        "python/name:os.mkdir",
    ):
        target = tmp_path / "made"
        with pytest.raises(ConfigError, match=rf"x:1:4: .*a: the tag {kind} is not allowed"):
            parse_yaml(f"a: !!{kind} ['{target}']\n", "x")
        assert not target.exists()


def test_an_alias_cannot_grow_without_bound() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join(10 * [f'*a{n - 1}'])}]" for n in range(1, 30)]
    with pytest.raises(ConfigError, match="more than 100000 values"):
        parse_yaml("\n".join(lines), "x")


def test_no_file(tmp_path: Path) -> None:
    (tmp_path / "nano.yaml").touch()
    with pytest.raises(
        ConfigError, match=r"nnao\.yaml: there is no such file; .* holds nano\.yaml"
    ):
        load_config(tmp_path / "nnao.yaml")
    with pytest.raises(ConfigError, match=r"is a directory; name a YAML file"):
        load_config(tmp_path)


# --- what it extends


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a": "no.yaml"}, ["no.yaml: there is no such file", "a.yaml:1:1 extends"]),
        ({"a": "a.yaml"}, ["a.yaml: extends itself: ", "a.yaml -> "]),
        (
            {"a": "b.yaml", "b": "c.yaml", "c": "b.yaml"},
            ["b.yaml: extends itself", "c.yaml:1:1 extends", "a.yaml:1:1 extends"],
        ),
        ({"a": "."}, ["is a directory", "a.yaml:1:1 extends"]),
    ],
    ids=["missing", "self", "loop", "folder"],
)
def test_a_base_that_cannot_be(write: Write, files: dict[str, str], said: list[str]) -> None:
    paths = [
        write(f"{name}.yaml", f"extends: {base}\nname: {name}\n") for name, base in files.items()
    ]
    text = message(paths[0])
    assert all(part in text for part in said), text


def test_a_fault_in_the_base_is_shown_in_the_base(write: Write) -> None:
    write("base.yaml", TINY.replace("n_layers: 2", "n_layers: two"))
    child = write("child.yaml", "extends: base.yaml\nmodel: {d_model: wide}\n")
    first, second = message(child).splitlines()
    assert first.startswith("child.yaml:2:9: model.d_model:")
    assert second.startswith("base.yaml:5:3: model.n_layers:")


# --- overrides


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.d_model", ": write --set path.to.key=value"),
        ("=3", ": write --set path.to.key=value"),
        ("model..d_model=3", ": 'model..d_model' has an empty step"),
        ("model.d_model.x=3", ": model.d_model.x: model.d_model is 16, which holds no keys"),
        ("model.d_modle=3", ": model.d_modle: no key 'd_modle'; choose one of d_model"),
        ("modle.d_model=3", ": modle: no key 'modle'; choose one of name"),
        ("model.d_model=wide", ": model.d_model: input should be a valid integer; got 'wide'"),
        ("model.d_model=", ": model.d_model: input should be a valid integer; got None"),
        ("model.heads=[1", ":1:3: not valid YAML"),
        ("model.fusion={name: maen}", ": model.fusion.name: no component 'maen'"),
        ("name=!!python/name:os.system x", ":1:1: not valid YAML: top level: the tag python/name"),
    ],
)
def test_an_override_is_named_in_its_fault(tiny: Path, override: str, said: str) -> None:
    text = message(tiny, (override,))
    assert text.startswith(f"--set {override}{said}"), text
    numbered = message(tiny, ("description=fine", override)).splitlines()[0]
    assert numbered.startswith(f"--set #2 {override}{said}"[:60])


# --- combinations that a component refuses


@pytest.mark.parametrize("case", FAULTS["refused"])
def test_a_refusal_gets_its_place_from_the_configuration(tiny: Path, case: str) -> None:
    overrides, said = FAULTS["refused"][case]["set"], FAULTS["refused"][case]["said"]
    config = load_config(tiny, overrides)
    with pytest.raises(ConfigError) as caught:
        build_parts(config)
    text = str(config.blame(caught.value)).replace(f"{tiny.parent}/", "")
    assert text.startswith(("tiny.yaml:", "--set ")), text
    assert all(part in text for part in said), text


def build_parts(config: Config) -> None:
    build_model(config.model, 16)
    build_sources(config.data, config.training.seq_len)
    schedules.build(config.schedule, config.n_steps, config.optimizer.options()["lr"])


def test_blame_without_a_path_names_the_file(tiny: Path) -> None:
    config: Any = load_config(tiny)
    assert str(config.blame(ConfigError("no"))) == f"{tiny}:1:1: no"
    assert str(config.blame(ConfigError("no", "model.ssm"))) == f"{tiny}:13:3: model.ssm: no"
