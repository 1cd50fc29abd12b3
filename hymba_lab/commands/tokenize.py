"""`hymba-lab tokenize CONFIG.yaml`: text to shards of tokens over all cores; again to go on."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymba_lab import cli, flags

if TYPE_CHECKING:
    from hymba_lab.data.prepare.schema import TokenizeConfig


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="hymba-lab tokenize",
        description="Make shards of tokens from text, over all cores; run again to go on.",
    )
    add = parser.add_argument
    add("file", type=Path, metavar="CONFIG.yaml", help="or, with --verify, a folder of shards")
    flags.add(parser, "set", help="override one value, e.g. --set val_fraction=0.01")
    add("--workers", type=flags.whole(1, 4096), metavar="N", help="processes (default: one a core)")
    add("--verify", action="store_true", help="read every shard of a folder against its index")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Make the shards and say what they are; returns 0."""
    options = arguments().parse_args(argv)
    if options.verify:
        return _verify(options.file)
    from hymba_lab.data.prepare.run import tokenize
    from hymba_lab.runs.provenance import n_cores

    config = load_tokenize_config(options.file, options.overrides)
    begin = time.monotonic()
    index = tokenize(config, workers=options.workers or n_cores(), report=_Progress(begin))
    seconds = time.monotonic() - begin
    print(f"{index.folder}: vocabulary {index.vocab:,}, end of text {index.end_of_text}")
    for part in ("train", "val"):
        n_tokens, n_documents = index.total(part, "n_tokens"), index.total(part, "n_documents")
        n_shards = sum(shard.part == part for shard in index.shards)
        print(
            f"{part:5} {n_tokens:,} tokens of {n_documents:,} documents in {n_shards:,} shards, "
            f"{index.bytes_per_token(part):.2f} bytes a token"
        )
    print(f"fingerprint {index.fingerprint[:16]}, {seconds:.0f} s")
    return 0


def load_tokenize_config(file: Path, overrides: Sequence[str] = ()) -> "TokenizeConfig":
    """Return the configuration of a file, `--set` applied, with absolute paths.

    Paths are relative to the file that names them. Raises ConfigError with file:line:column.
    """
    from hymba_lab.config import load_document
    from hymba_lab.config.kinds import refuse_another
    from hymba_lab.config.messages import checked
    from hymba_lab.data.prepare.schema import TokenizeConfig, contradiction

    document = load_document(file, overrides)
    refuse_another(document.data, file, "a corpus")
    config = checked(document, TokenizeConfig)
    if wrong := contradiction(config):
        raise document.wrong([wrong[0]], wrong[1])

    at = document.located
    paths = [at(path, "paths", number) for number, path in enumerate(config.paths)]
    changed: dict[str, Any] = {"out": at(config.out, "out"), "paths": paths}
    if config.tokenizer.file is not None:
        file_at = {"file": at(config.tokenizer.file, "tokenizer", "file")}
        changed["tokenizer"] = config.tokenizer.model_copy(update=file_at)
    if config.hub is not None and config.hub.data_files is not None:
        files = [
            name if "://" in name else at(name, "hub", "data_files", number)
            for number, name in enumerate(config.hub.data_files)
        ]
        changed["hub"] = config.hub.model_copy(update={"data_files": files})
    return config.model_copy(update=changed)


def _verify(folder: Path) -> int:
    from hymba_lab.data.index import read_index, tokenizer_of, verify

    index = read_index(folder)
    tokenizer_of(index)
    verify(index.shards, index.folder)
    print(f"{folder}: {len(index.shards):,} shards and the tokenizer are those of the index")
    return 0


class _Progress:
    """One line that is written again on a terminal, a line every half minute elsewhere."""

    def __init__(self, begin: float) -> None:
        self._begin = self._said = begin
        self._stage = ""
        self._first = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._begin, self._first = stage, now, done
        live = sys.stderr.isatty()
        if not live and 0 < done < total and now - self._said < 30:
            return
        self._said = now
        line = f"{stage}: {self._text(done, total, now - self._begin)}"
        end = "\n" if not live or done == total else ""
        print(f"\r\x1b[K{line}" if live else line, end=end, file=sys.stderr, flush=True)

    def _text(self, done: int, total: int, seconds: float) -> str:
        if total <= 1:
            return "is trained" if self._stage == "tokenizer" else ""
        made = done - self._first
        said = f"{done / 1e6:,.1f} of {total / 1e6:,.1f} MB ({done / total:.0%})"
        if made <= 0 or seconds <= 0:
            return said
        return (
            f"{said}, {made / 1e6 / seconds:.2f} MB/s, {_spelled(seconds * (total - done) / made)}"
        )


def _spelled(seconds: float) -> str:
    hours, minutes = divmod(int(seconds) // 60, 60)
    if hours:
        return f"{hours} h {minutes:02} min left"
    return f"{minutes} min left" if minutes else f"{int(seconds)} s left"


if __name__ == "__main__":
    cli.run(main)
