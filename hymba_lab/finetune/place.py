"""The folder of a stage: what was asked, how far it is, and what came of it.

    OUT/  finetune.json  checkpoints/  then config.json, weights, tokenizer, chat_template.jinja
    OUT/adapter/  with LoRA and DoRA

`finetune.json` says what was asked from the first moment and has a result when all else is there.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hymba_lab.atomic import json_of, make_folder, of_the_system, write_atomically
from hymba_lab.errors import StoreError

NAME = "finetune.json"


class Place:
    """Refuses a folder that holds anything else; raises `StoreError`."""

    def __init__(self, folder: Path, asked: dict[str, Any]) -> None:
        self.folder, self.asked = folder, asked
        self.checkpoints = folder / "checkpoints"
        self.file = folder / NAME

    def enter(self) -> dict[str, Any] | None:
        """Look whether the folder is free, or the same stage's; return its result if there is one.

        Nothing is written before `begin`.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise StoreError(f"{self.folder}: is a file; name a folder with --out.")
        if not self.file.exists():
            if self.folder.exists() and any(
                not path.name.startswith(".") for path in self.folder.iterdir()
            ):
                raise StoreError(
                    f"{self.folder}: holds files and no {NAME}, so it is none of a stage; name "
                    "another folder with --out."
                )
            return None
        found = self._read()
        if found.get("asked") != self.asked:
            raise StoreError(
                f"{self.folder}: another stage stands there (it differs in "
                f"{', '.join(_differing(found.get('asked'), self.asked))}); name another folder "
                "with --out, or remove that one."
            )
        result: dict[str, Any] | None = found.get("result")
        return result

    def finish(self, save: Callable[[Path], None], result: dict[str, Any]) -> None:
        """Let `save` fill a folder, move what it wrote here, and write the result behind it."""
        aside = self.folder / ".saving"
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            save(aside)
            for path in sorted(aside.iterdir()):
                target = self.folder / path.name
                if target.is_dir():
                    shutil.rmtree(target)
                os.replace(path, target)
            aside.rmdir()
        except Exception as error:
            reason = of_the_system(error)
            if reason is None:
                raise
            raise StoreError(
                f"{self.folder}: the model cannot be written: {reason}; make "
                "room and run the command again: it goes on from the last checkpoint."
            ) from None
        self._write(result)
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def begin(self) -> None:
        """Make the folder and say in it what was asked."""
        make_folder(self.folder, "--out")
        self._write(None)

    def _read(self) -> dict[str, Any]:
        try:
            content = json_of(self.file)
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.file}: cannot be read ({error}); remove the folder.") from None
        return content if isinstance(content, dict) else {}

    def _write(self, result: dict[str, Any] | None) -> None:
        record = {"asked": self.asked, "result": result}
        write_atomically(self.file, json.dumps(record, indent=1) + "\n")


def _differing(theirs: Any, ours: dict[str, Any]) -> list[str]:
    theirs = theirs if isinstance(theirs, dict) else {}
    return sorted(key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key))
