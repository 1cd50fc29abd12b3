"""`python analysis/old_and_new_verdicts.py [COMMIT] > docs/old_and_new_verdicts.md`.

The committed exports at nano, read by today's statistics beside the verdicts of an older commit
(default: e43f775, the last with paired t-tests of areas under curves). Nothing is trained again.
"""

import csv
import io
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd

from hymba_lab.sweep.documents import documents
from hymba_lab.sweep.export import read_export
from hymba_lab.tables.sentence import without_numbers

HEAD = """# The committed runs, read anew

The runs of `results/*-nano` and, where a longer recipe has replaced them since, `results/short/`,
judged by paired t-tests of the area under the accuracy's curve (commit {commit}) and by the
statistics of `how_a_verdict_is_made.md`. Written by
`python analysis/old_and_new_verdicts.py`; nothing was trained again.

What changed, and why:

- The old effect is an area under a curve, which depends on the budget; the new one is the ratio of
  training tokens until the task was solved, half-way between a guess from position alone (0.337)
  and 1 (at `parents`: that of its own task).
- "worse" against a row that was stopped before its jump is now "censored", with the factor by
  which it is later at least. Only six seeds and the log-rank test make a verdict of it.
- A bound such as "smaller than 1.3" of a fraction said nothing; the new ones are factors, each with
  the seeds that would tell 1.2 times.

"""


def old_verdicts(commit: str, folder: Path, runs: pd.DataFrame) -> dict[str, str]:
    """Return row -> verdict of the table at a commit; a row is the same when its runs are."""
    of_run = {line["identity"]: line["row"] for line in _lines(commit, folder, "runs.csv")}
    verdicts = {line["row"]: line["verdict"] for line in _lines(commit, folder, "table.csv")}
    pairs = zip(runs["row"], runs["identity"], strict=True)
    return {str(row): verdicts[of_run[run]] for row, run in pairs if run in of_run}


def _lines(commit: str, folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(_git("show", f"{commit}:{folder.as_posix()}/{name}"))))


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


def main(commit: str) -> None:
    """Print the page."""
    lines, kinds = [], Counter[tuple[str, str]]()
    found = [*Path("results").glob("*-nano"), *Path("results/short").glob("*-nano")]
    then = _git("ls-tree", "-d", "--name-only", f"{commit}:results").splitlines()
    for folder in sorted((one for one in found if one.name in then), key=lambda path: path.name):
        export = read_export(folder)
        older = Path("results", folder.name)  # there it stood then; newer runs share none with it
        old, (table, _) = old_verdicts(commit, older, export.runs), documents(export)
        for line in table.frame.to_dict("records"):
            row, new = str(line["row"]), str(line["verdict"])
            if new == "baseline" or row not in old:
                continue
            kinds[without_numbers(old[row]), without_numbers(new)] += 1
            solved = f"{line['solved']} of {line['seeds']}"
            lines.append(f"| {folder.name} | {row} | {solved} | {old[row]} | {new} |")
    print(HEAD.format(commit=commit))
    print("| old | new | rows |\n|---|---|---:|")
    for (before, after), n in sorted(kinds.items()):
        print(f"| {before} | {after} | {n} |")
    print("\n| sweep | row | solved | old verdict | new verdict |\n|---|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "e43f775")
