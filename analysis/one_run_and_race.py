"""`python analysis/one_run_and_race.py > docs/one_run_and_race.md`.

Tables whose rates one run a value chose (`results/one_run`) beside the same questions tuned by a
race over the compared seeds (`results`), row by row. Nothing is trained.
"""

from pathlib import Path
from typing import Any

from hymba_lab.sweep.documents import documents
from hymba_lab.sweep.export import Export, read_export
from hymba_lab.tables.numbers import number, ratio_estimate
from hymba_lab.tables.sentence import without_numbers

RATE = "optimizer.lr"
HEAD = """# One run a rate, and a race

The same questions on the same seeds, tuned in two ways: by one run of each learning rate on a seed
of its own (`results/one_run/`), and by a race of the rates over the compared seeds (`results/`,
[how](how_a_verdict_is_made.md)). Verdicts that differ between the two are bold: by the luck of one
run, or by that of a race, which is smaller; in `ssm_state-nano` also by another kind of processor
([results](../results/README.md)). Times are geometric means of thousand training tokens until
solved; where not every run did, of those that did: such a time is too soon, and its effect has the
bound. Effects are ratios to the first row of each table, with 95 % intervals over the table. Tokens
are those of the compared runs: runs at rates that lost come beside (a race's are in `tuning.csv`),
and hours would compare machines. Command, commits and hardware of the runs stand under each table
there. Written by `python analysis/one_run_and_race.py`; nothing was trained for it.
"""
COLUMNS = ("rate", "time [k]", "effect", "by one run", "rate", "time [k]", "effect", "by a race")

Line = dict[str, Any]


def lines(export: Export) -> dict[str, Line]:
    """Return the rows of the table by label, each with the rate that it stands at."""
    rates = export.runs.groupby("row")[RATE].first()
    records: Any = documents(export)[0].frame.to_dict("records")
    return {str(one["row"]): {**one, RATE: float(rates[one["row"]])} for one in records}


def section(name: str, once: Export, raced: Export) -> str:
    """Return one question's rows under both."""
    one_run, race = lines(once), lines(raced)
    said = [
        f"## `{name}`\n",
        f"Million tokens: {_tokens(once)} and {_tokens(raced)}.\n",
        f"| row | {' | '.join(COLUMNS)} |",
        "|---|---:|---:|---|---|---:|---:|---|---|",
    ]
    for label, after in race.items():
        before = one_run.get(label)
        cells = [*(_cells(before) if before else ["", "", "", "not asked"]), *_cells(after)]
        if before and cells[3] != cells[-1]:
            cells[-1] = f"**{cells[-1]}**"
        said.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(said)


def _tokens(export: Export) -> str:
    return f"{export.runs['tokens_trained'].sum() / 1e6:.1f}"


def _cells(line: Line) -> list[str]:
    time = number(line["tokens_to_solve"] / 1000, 0)
    if line["solved"] < line["seeds"]:
        time += f" ({line['solved']:.0f} of {line['seeds']:.0f})"
    effect = ratio_estimate(line["effect"], line["effect_low"], line["effect_high"])
    return [f"{line[RATE]:g}", time, effect, without_numbers(line["verdict"])]


def main() -> None:
    """Print the page."""
    print(HEAD)
    folders = sorted(Path("results/one_run").glob("*-nano"))
    pairs = [(read_export(folder), read_export(Path("results", folder.name))) for folder in folders]
    print("\n\n".join(section(once.name, once, raced) for once, raced in pairs))


if __name__ == "__main__":
    main()
