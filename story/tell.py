"""`make story`: every command of docs/story.md in turn, then the table of what they measured.

    python story/tell.py

Run it again to go on: each command goes on with what it finds. `story/results.json` is written at
the end; `python story/tell.py --table` prints its table as it stands in the page.
"""

import io
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OUT = Path("build/story")
RESULTS = HERE / "results.json"
MODELS = ("base", "sft1", "sft2", "dpo")
SHOWN = {"base": "pretrained", "sft1": "after SFT-1", "sft2": "after SFT-2", "dpo": "after DPO"}
ASKED = {
    "purpose": ("what is it for, 4 choices", "acc"),
    "module": ("which module, 4 choices", "acc"),
    "say_module": ("which module, answer written", "exact_match"),
}
PARTS = {"tuned": "asked in tuning", "held": "never asked before"}
Z = 1.959964  # of a 95 % interval


class Tee(io.StringIO):
    """Keeps what is printed, and prints it."""

    def write(self, text: str) -> int:
        """Print and keep."""
        sys.__stdout__.write(text)
        sys.__stdout__.flush()
        return super().write(text)


def run(*argv: str) -> tuple[str, float]:
    """Run one command of `hymba-lab` in this process; return what it printed, and its seconds."""
    from hymba_lab.__main__ import main

    print(f"\n$ hymba-lab {' '.join(argv)}", flush=True)
    begun, said = time.monotonic(), Tee()
    with redirect_stdout(said):
        try:
            code = main(list(argv))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    if code:
        sys.exit(code)
    return said.getvalue(), round(time.monotonic() - begun, 1)


def tell() -> dict[str, Any]:
    """Run everything; return what was measured."""
    from hymba_lab.runs.provenance import commit, hardware

    begun, seconds, metrics = time.monotonic(), {}, {}
    told, _ = run("train", "story/pretrain.yaml", "--root", str(OUT), "--threads", "2")
    found = re.search(r"weights: (.*)/weights\.safetensors", told)
    if found is None:
        sys.exit("train said no place of its weights")
    folder = Path(found[1])
    record = json.loads((folder / "result.json").read_text("utf-8"))
    seconds["pretrain"] = round(record["seconds"], 1)
    if not (OUT / "base").is_dir():
        run("finetune", "export", str(folder), "--out", str(OUT / "base"))
    for name in MODELS:
        if name != "base":
            kind = "dpo" if name == "dpo" else "sft"
            _, seconds[name] = run("finetune", kind, f"story/{name}.yaml", "--root", str(OUT))
        place = OUT / "evaluation" / name
        _, seconds[f"evaluate {name}"] = run(
            "evaluate", str(OUT / name), "--suite", str(OUT / "tasks"), "--batch-size", "128",
            "--out", str(place), "--root", str(OUT),
        )  # fmt: skip
        metrics[name] = _measured(place)
    talk, _ = run("chat", str(OUT / "dpo"), "--prompts", "story/prompts.txt",
                  "--max-new-tokens", "24", "--temperature", "0")  # fmt: skip
    return {
        "command": "make story",
        "commit": commit().sha,
        "hardware": hardware(),
        "load": os.getloadavg()[1],
        "params": record["params"],
        "tokens": record["tokens"],
        "val/loss": record["metrics"]["val/loss"],
        "val/text_bits_per_byte": record["metrics"]["val/text_bits_per_byte"],
        "pretrained_at": record["commit"],
        "seconds": seconds,
        "minutes_of_this_run": round((time.monotonic() - begun) / 60, 1),
        "metrics": metrics,
        "chat": talk.strip(),
    }


def _measured(place: Path) -> dict[str, dict[str, float]]:
    found = {}
    for path in sorted(place.glob("*.json")):
        record = json.loads(path.read_text("utf-8"))
        (values,) = record["metrics"].values()
        name = ASKED[path.stem.rsplit("_", 1)[0]][1]
        found[path.stem] = {"value": values[name], "n": sum(record["n_questions"].values())}
    return found


def interval(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share (Wilson 1927)."""
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def table(results: Mapping[str, Any]) -> str:
    """Return the table of the page."""
    head = ["question", "part", "guess", *(SHOWN[name] for name in MODELS)]
    lines = [_line(head), _line(["---", "---", *["---:"] * (len(head) - 2)])]
    for kind, (asked, _) in ASKED.items():
        for part, said in PARTS.items():
            cells = [asked, said, "0 %" if kind == "say_module" else "25 %"]
            for name in MODELS:
                one = results["metrics"][name][f"{kind}_{part}"]
                low, high = interval(one["value"], one["n"])
                cells.append(f"{100 * one['value']:.0f} % [{100 * low:.0f}, {100 * high:.0f}]")
            lines.append(_line(cells))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Tell the story, or print its table."""
    if "--table" not in sys.argv:
        subprocess.run([sys.executable, str(HERE / "data.py"), str(OUT)], check=True)
        RESULTS.write_text(json.dumps(tell(), indent=1) + "\n", encoding="utf-8")
    print("\n" + table(json.loads(RESULTS.read_text("utf-8"))))


if __name__ == "__main__":
    main()
