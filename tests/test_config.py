"""Configurations: what a file, what it extends and the overrides make together, and the digest."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from pydantic import ValidationError

from hymba_lab.config import Config, from_resolved, load_config, load_document
from hymba_lab.config.yaml_file import Document, merged, parse_value, parse_yaml, read_yaml
from hymba_lab.registry import Section

Write = Callable[[str, str], Path]

COSMETIC = {
    "name",
    "description",
    "scale",
    "plugins",
    "tokenizer",
    "paths_from",
    "start_from",
    "training.log_every",
    "training.checkpoint_every",
    "training.micro_rows",
    "training.recompute",
    "training.compile",
    "training.cuda_graph",
    "training.devices",
    "training.shard",
    "training.shard_checkpoints",
}


# --- reading


def test_every_default_is_filled_in(tiny: Path) -> None:
    config = load_config(tiny)
    assert config.model.norm_eps == 1e-6 and config.model.vocab is None
    assert config.optimizer.options()["betas"] == [0.9, 0.95]
    assert config.training.precision == "fp32" and config.training.grad_clip == 1.0
    assert config.data["recall"].options()["val_seed"] == 0
    assert config.n_steps == 640 // (4 * 16)


def test_numbers_are_read_as_yaml_1_2_has_them() -> None:
    text = "a: 1e-3\nb: 1_000\nc: yes\nd: 010\ne: .5\nf: ~\ng: 0x10\nh: 'true'\ni: off\n"
    assert parse_yaml(text, "x").data == {
        "a": 0.001, "b": 1000, "c": "yes", "d": 10, "e": 0.5, "f": None, "g": 16, "h": "true",
        "i": "off",
    }  # fmt: skip


def test_anchors_and_merge_keys_are_plain_data_with_plain_types() -> None:
    text = (
        "a: &a {x: &t true, y: &n 3, z: &f 0.5, s: &s 'q'}\n"
        "b: {<<: *a, y: 4}\nc: [*t, *n, *f, *s]\nd: *a\n"
    )
    data = parse_yaml(text, "x").data
    assert data["b"] == {"x": True, "y": 4, "z": 0.5, "s": "q"}
    assert data["c"] == [True, 3, 0.5, "q"]
    assert [type(item) for item in data["c"]] == [bool, int, float, str]
    assert type(data) is type(data["a"]) is dict and type(data["c"]) is list
    data["a"]["x"] = False
    assert data["d"]["x"] is True, "what an alias repeats is not shared"


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(path).data == {"a": 1}


def test_every_key_knows_its_line_and_column() -> None:
    document = parse_yaml(TINY, "tiny.yaml")
    lines = TINY.splitlines()
    assert len(document.marks) > 40
    for place, mark in document.marks.items():
        name, line, column = mark.split(":")
        assert name == "tiny.yaml"
        here = lines[int(line) - 1][int(column) - 1 :]
        if place and isinstance(place[-1], str):
            assert here.startswith(f"{place[-1]}:"), (place, mark)
    assert document.where(["model", "heads", "expand"]) == "tiny.yaml:6:63"
    assert document.where(["model", "heads", "nothing", "here"]) == "tiny.yaml:6:3"
    assert document.where(["nothing"]) == "tiny.yaml:1:1"


# --- extending


def test_a_child_adds_and_replaces_key_by_key(write: Write) -> None:
    write("base.yaml", TINY)
    path = write("child.yaml", "extends: base.yaml\nname: child\nmodel: {d_model: 32, vocab: 99}\n")
    base, child = load_config(path.with_name("base.yaml")), load_config(path)
    assert (child.name, child.model.d_model, child.model.vocab) == ("child", 32, 99)
    resolved, expected = child.resolved(), base.resolved()
    expected |= {"name": "child"}
    expected["model"] |= {"d_model": 32, "vocab": 99}
    assert resolved == expected


def test_a_component_with_a_name_replaces_without_one_it_merges(write: Write) -> None:
    write("base.yaml", TINY)
    merging = write("a.yaml", "extends: base.yaml\nmodel: {heads: {n_heads: 4}}\n")
    assert load_config(merging).model.heads.options()["d_head"] == 8
    replacing = write("b.yaml", "extends: base.yaml\nmodel: {heads: {name: ssm_only}}\n")
    assert load_config(replacing).model.heads.options() == {"expand": 2, "d_inner": None}


def test_sources_are_added_by_label(write: Write) -> None:
    write("base.yaml", TINY)
    path = write("child.yaml", "extends: base.yaml\ndata: {other: {name: induction, rows: 2}}\n")
    assert list(load_config(path).data) == ["recall", "other"]


def test_a_chain_is_followed_from_folder_to_folder(write: Write) -> None:
    write("shared/base.yaml", TINY)
    write("shared/middle.yaml", "extends: base.yaml\nmodel: {n_layers: 3, d_model: 24}\n")
    path = write("mine/leaf.yaml", "extends: ../shared/middle.yaml\nmodel: {d_model: 32}\n")
    config = load_config(path)
    assert (config.model.n_layers, config.model.d_model, config.scale) == (3, 32, "tiny")


def test_an_empty_child_is_its_base(write: Write) -> None:
    write("base.yaml", TINY)
    path = write("child.yaml", "extends: base.yaml\n")
    assert load_config(path).resolved() == load_config(path.with_name("base.yaml")).resolved()


def test_positions_follow_what_was_put_in_place() -> None:
    base = parse_yaml("a: {name: x, b: 1, c: 2}\nd: {e: 3, f: 4}\n", "base")
    child = parse_yaml("\na: {name: y, b: 5}\nd: {e: 6}\n", "child")
    both = merged(base, child)
    assert both.data == {"a": {"name": "y", "b": 5}, "d": {"e": 6, "f": 4}}
    assert both.where(["a", "b"]) == "child:2:14"
    assert both.where(["a", "c"]) == "child:2:1", "c is gone with its component"
    assert (both.where(["d", "e"]), both.where(["d", "f"])) == ("child:3:5", "base:2:11")
    assert base.data["d"] == {"e": 3, "f": 4}


# --- patching


def test_a_patch_replaces_and_never_merges() -> None:
    before = parse_yaml("a: {b: {c: 1, d: 2}, e: 3}\n", "x")
    after = before.patched("a.b", {"c": 9}, "patch")
    assert after.data == {"a": {"b": {"c": 9}, "e": 3}}
    assert before.data == {"a": {"b": {"c": 1, "d": 2}, "e": 3}}
    assert after.where(["a", "b", "c"]) == "patch" and after.where(["a", "e"]) == "x:1:22"
    assert before.where(["a", "b", "c"]) == "x:1:9"


def test_a_patch_keeps_no_hold_of_its_value() -> None:
    value = {"c": [1]}
    document = Document({"a": 1}).patched("b", value, "patch")
    value["c"].append(2)
    assert document.get("b.c") == [1]
    with pytest.raises(KeyError, match=r"b\.d"):
        document.get("b.d")


def test_overrides_are_yaml_values_and_the_last_wins(tiny: Path) -> None:
    overrides = [
        "model.d_model=32", "model.d_model = 24", "optimizer.lr=1e-2", "model.vocab=null",
        "model.fusion={name: gate, init: 0.5}", "training.grad_clip=~", "description=a = b",
    ]  # fmt: skip
    config = load_config(tiny, overrides)
    assert (config.model.d_model, config.model.vocab) == (24, None)
    assert config.optimizer.options()["lr"] == 0.01
    assert config.model.fusion.options() == {"init": 0.5, "eps": 1e-6}
    assert config.training.grad_clip is None and config.description == "a = b"


def test_an_override_reaches_one_option_and_a_new_source(tiny: Path) -> None:
    config = load_config(tiny, ["model.ssm.d_state=8", "data.more={name: induction, rows: 3}"])
    assert config.model.ssm.options()["d_state"] == 8
    assert config.data["more"].options()["rows"] == 3


def test_a_value_alone_is_read_like_a_file() -> None:
    assert [parse_value(text, "x") for text in ("1e-3", "true", "[1, a]", "{b: }", "")] == [
        0.001, True, [1, "a"], {"b": None}, None,
    ]  # fmt: skip


# --- freezing, writing and reading again


def test_a_configuration_is_frozen(tiny: Path) -> None:
    config = load_config(tiny)
    for part, key in [(config, "name"), (config.model, "d_model"), (config.model.ssm, "d_state")]:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, key, getattr(part, key))


def test_what_was_resolved_resolves_to_itself(tiny: Path) -> None:
    config = load_config(tiny, ["model.vocab=50", "description=x"])
    again = from_resolved(json.loads(json.dumps(config.resolved())))
    assert again.resolved() == config.resolved()
    assert again.digest == config.digest and again.model == config.model


# --- the digest


def leaves(part: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every option of a configuration, specs and sources included."""
    if not isinstance(part, Section | dict):
        yield path, part
        return
    items = part.items() if isinstance(part, dict) else iter(part)
    for key, value in items:
        yield from leaves(value, (*path, key))


def changed(part: Any, path: tuple[str, ...], value: Any) -> Any:
    """A copy with another value at `path`, whether or not it would be allowed."""
    key, *rest = path
    inner = (
        changed(part[key] if isinstance(part, dict) else getattr(part, key), tuple(rest), value)
        if rest
        else value
    )
    if isinstance(part, dict):
        return {**part, key: inner}
    return part.model_copy(update={key: inner})


def test_the_digest_depends_on_everything_but_what_is_cosmetic(tiny: Path) -> None:
    config: Config = load_config(tiny)
    found = dict(leaves(config))
    assert len(found) > 50
    for path, value in found.items():
        other = changed(config, path, [value, "other"])
        cosmetic = ".".join(path) in COSMETIC
        assert (other.digest == config.digest) == cosmetic, path
    digests = {changed(config, path, [value, "other"]).digest for path, value in found.items()}
    n_cosmetic = sum(".".join(path) in COSMETIC for path in found)
    assert len(digests) == len(found) - n_cosmetic + 1


def test_the_digest_does_not_depend_on_how_it_is_written(tiny: Path, write: Write) -> None:
    config = load_config(tiny)
    document = load_document(tiny)

    def backwards(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: backwards(value[key]) for key in reversed(value)}
        return value

    same = {
        "order": json.dumps(backwards(document.data)),
        "defaults": json.dumps(config.resolved()),
        "numbers": TINY.replace("3.0e-3", "0.003").replace("640", "0x280"),
        "whole floats": TINY.replace("val_every: 5", "val_every: 5, grad_clip: 1"),
        "name": TINY.replace("name: tiny", "name: other\ndescription: words"),
        "comments": "# more\n" + TINY + "# words\n",
    }
    for case, text in same.items():
        assert load_config(write(f"{case}.yaml", text)).digest == config.digest, case
    cosmetic = ["training.log_every=3", "training.checkpoint_every=7", "scale=huge"]
    assert load_config(tiny, cosmetic).digest == config.digest


def test_the_digest_is_a_sha256(tiny: Path) -> None:
    digest = load_config(tiny).digest
    assert len(digest) == 64 and int(digest, 16) >= 0
    assert digest == load_config(tiny).digest
