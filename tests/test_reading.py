"""Files that are none: a pipe, a device, a name beyond any length; each command says it at once."""

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hymba_lab import cli
from hymba_lab.atomic import json_of, parsed_json, text_of
from hymba_lab.checkpoints.weights import described
from hymba_lab.errors import CheckpointError, UserError


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link(path: Path) -> None:
    path.symlink_to("/nonexistent/elsewhere")


def itself(path: Path) -> None:
    path.symlink_to(path)


def large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(300_000_000)  # no byte of it is on the disk


FOUND: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "No such file"),
    "a pipe": (pipe, "no file but a pipe or a device"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "no file but a pipe or a device"),
    "a folder": (Path.mkdir, "Is a directory"),
    "a dangling link": (link, "No such file"),
    "a link to itself": (itself, "symbolic links"),
    "300 MB": (large, "larger than 256,000,000 bytes"),
    "Latin-1": (lambda path: path.write_bytes(b"caf\xe9"), "can't decode byte 0xe9"),
    "brackets": (lambda path: path.write_text("[" * 100_000), "nested too deeply"),
    "half": (lambda path: path.write_text('{"a": '), "Expecting value"),
}


@pytest.mark.parametrize(("make", "said"), FOUND.values(), ids=FOUND)
def test_a_file_that_is_none_is_no_wait_and_no_crash(
    tmp_path: Path, make: Callable[[Path], object], said: str
) -> None:
    make(tmp_path / "file")
    with pytest.raises((OSError, ValueError), match=said):
        json_of(tmp_path / "file")


def test_what_is_there_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text('{"\u00e9": [1]}', encoding="utf-8")
    assert json_of(tmp_path / "file") == {"\u00e9": [1]} == parsed_json(text_of(tmp_path / "file"))


# --- commands that are given such a file, or a name that no file has

VERDICT = ("--row", "row", "--metric", "loss", "--baseline", "a")
COMMANDS: dict[str, tuple[str, Sequence[str]]] = {
    "generate": ("hymba_lab.commands.generate", ("FILE", "--ids", "1")),
    "chat": ("hymba_lab.commands.chat", ("FILE",)),
    "verdict": ("hymba_lab.commands.verdict", ("FILE", *VERDICT)),
    "inspect": ("hymba_lab.commands.inspect", ("FILE",)),
    "peers": ("hymba_lab.commands.inspect", ("--peers", "FILE")),
    "evaluate": ("hymba_lab.commands.evaluate", ("FILE",)),
    "tokenize": ("hymba_lab.commands.tokenize", ("FILE",)),
    "finetune": ("hymba_lab.commands.finetune", ("sft", "FILE")),
    "check": ("hymba_lab.commands.check", ("FILE",)),
    "bench": ("hymba_lab.commands.bench", ("FILE",)),
    "probes": ("hymba_lab.probes.__main__", ("FILE",)),
    "report": ("hymba_lab.report.__main__", ("FILE",)),
    "claims": ("hymba_lab.claims.__main__", ("--claims", "FILE")),
    "lengths": ("hymba_lab.commands.lengths", ("--peers", "FILE", "a=FILE")),
    "status": ("hymba_lab.commands.status", ("FILE",)),
    "stop": ("hymba_lab.commands.stop", ("FILE",)),
}
NAMES: dict[str, Callable[[Path], str]] = {
    "pipe": lambda folder: str(folder / "pipe"),
    "no name": lambda folder: "",
    "a long name": lambda folder: "x" * 5000,
    "a file below a file": lambda folder: str(folder / "empty" / "x.yaml"),
    "an empty file": lambda folder: str(folder / "empty"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_of_no_file_is_one_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    name: str,
) -> None:
    """Promise: one clear message; nothing is waited for, and nothing is made."""
    from importlib import import_module

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    monkeypatch.chdir(tmp_path)
    module, arguments = COMMANDS[command]
    given = NAMES[name](tmp_path)
    argv = [given if one == "FILE" else one.replace("FILE", given) for one in arguments]
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda _: int(import_module(module).main(argv)))
    err = capsys.readouterr().err
    assert ended.value.code == 2, err
    assert err.count("error: ") == 1 and "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "pipe"]


REFUSED = {errno.EACCES: "may read and write", errno.ENOSPC: "make room", errno.EIO: "the disk"}


@pytest.mark.parametrize("number", REFUSED)
def test_what_the_system_refuses_is_told_with_the_files_name(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(argv: object) -> int:
        raise OSError(number, os.strerror(number), "/some/file")

    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert err.startswith(f"error: /some/file: {os.strerror(number)}; ") and REFUSED[number] in err


def test_a_fault_of_our_own_is_no_users_message() -> None:
    def main(argv: object) -> int:
        raise OSError("of no file")

    with pytest.raises(OSError, match="of no file"):
        cli.run(main)


DESCRIBED: dict[str, object] = {
    "nothing": {}, "a list": {"config": [], "vocab": 3}, "no vocabulary": {"config": {}},
    "half a vocabulary": {"config": {}, "vocab": 2.5}, "true": {"config": {}, "vocab": True},
    "none": {"config": {}, "vocab": 0}, "huge": {"config": {}, "vocab": 10**18},
    "later": {"config": {}, "vocab": 3, "format": 2},
}  # fmt: skip


@pytest.mark.parametrize("facts", DESCRIBED.values(), ids=DESCRIBED)
def test_weights_that_name_no_configuration(facts: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match=r"holds no configuration|format 2, this version"):
        described(Path("weights.safetensors"), facts)
    assert described(Path("x"), {"config": {"a": 1}, "vocab": 3}) == ({"a": 1}, 3)


@pytest.mark.parametrize(
    "header", ["[1]", "{", "[" * 5000, '"config"'], ids=["list", "cut", "deep", "word"]
)
def test_weights_with_another_header_are_refused(tmp_path: Path, header: str) -> None:
    import torch
    from safetensors.torch import save_file

    from hymba_lab.checkpoints.load import load

    save_file({"a": torch.zeros(2)}, tmp_path / "weights.safetensors", {"hymba_lab": header})
    with pytest.raises(UserError, match=r"weights\.safetensors: (holds no conf|not a whole)"):
        load(tmp_path, None, texts=False)
