"""The report: what is committed comes out again, from the export or from MLflow, without torch."""

import csv
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from exporting import METRIC, ROWS, SEEDS, report, run, runs_with, write_export, write_probe
from sweeping import SWEEP, Lab

from hymba_lab.errors import UserError
from hymba_lab.probes.whose import mark_of
from hymba_lab.report.index import END, START, Entry, keep_readme, readme_table
from hymba_lab.report.mlflow_runs import export_from
from hymba_lab.report.pictures import frame_of_times, paper_costs, pictures
from hymba_lab.report.write import draw, entries_of
from hymba_lab.runs.tracking import ROLE, STAGE, Store, default_uri
from hymba_lab.stats import Run
from hymba_lab.sweep.documents import documents
from hymba_lab.sweep.export import read_export
from hymba_lab.tables.sentence import sentence
from hymba_lab.tables.solving import Task

RESULTS = ROOT / "results"
COMMITTED = sorted(path.parent for path in RESULTS.glob("*/export.json"))
ENDS = {".svg", ".png", ".pdf"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one small sweep with a probe, reported on."""
    results = tmp_path_factory.mktemp("results")
    write_probe(write_export(results))
    assert report("--results", results, drawing=True).code == 0
    return results


# --- what is committed is what the command writes


def test_there_are_committed_results() -> None:
    assert COMMITTED


@pytest.mark.slow
@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_the_committed_tables_come_out_byte_for_byte(folder: Path) -> None:
    for name, text in documents(read_export(folder))[1].items():
        assert (folder / name).read_bytes() == text.encode(), f"{folder / name} is stale"


@pytest.mark.slow
@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_the_committed_figures_are_those_of_the_export(folder: Path) -> None:
    export = read_export(folder)
    table, _ = documents(export)
    wanted = {one.name for one in pictures(export, table, folder)}
    there = {path.stem for path in (folder / "figures").glob("*.svg")}
    assert there == wanted
    for name in wanted:
        assert {path.suffix for path in (folder / "figures").glob(f"{name}.*")} == ENDS


@pytest.mark.slow
def test_the_committed_readme_lists_every_sweep() -> None:
    exports = [read_export(folder) for folder in COMMITTED]
    assert readme_table(entries_of(exports, RESULTS)) in (RESULTS / "README.md").read_text()


# --- the whole way, on a small export


@pytest.mark.slow
def test_a_second_report_gives_the_same_bytes_without_torch(made: Path) -> None:
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    code = (
        "import sys\n"
        "from hymba_lab.report.__main__ import main\n"
        f"assert main(['--results', {str(made)!r}]) == 0\n"
        "heavy = {'torch', 'lightning', 'mlflow', 'optuna'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_every_file_is_written(made: Path) -> None:
    folder = made / "fusion-tiny"
    assert {path.name for path in folder.iterdir()} >= {
        "table.md", "table.csv", "table.tex", "report.html", "figures",
    }  # fmt: skip
    figures = {path.stem for path in (folder / "figures").iterdir()}
    assert figures == {
        "training_curves_recall_accuracy", "training_curves_text_bits_per_byte",
        "trade_off_cache_bytes", "trade_off_flops_per_token", "entropy",
    }  # fmt: skip
    assert {path.suffix for path in (folder / "figures").iterdir()} == ENDS


def test_curves_show_the_means_of_the_export(made: Path) -> None:
    export = read_export(made / "fusion-tiny")
    table, _ = documents(export)
    first = pictures(export, table, made / "fusion-tiny")[0]
    lines = first.draw(width=6.6).axes[0].lines
    own = export.curves[export.curves["metric"] == METRIC]
    for row, line in zip(ROWS, lines, strict=True):
        means = own[own["row"] == row].groupby("tokens")["value"].mean()
        assert np.allclose(line.get_ydata(), means)


class Page(HTMLParser):
    """Tags in order, text, and whether every tag is closed where it should be."""

    VOID = ("meta", "img", "source", "br", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag in names]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.mark.parametrize("name", ["index.html", "fusion-tiny/report.html"])
def test_a_page_is_whole_and_needs_no_network(made: Path, name: str) -> None:
    page = Page((made / name).read_text())
    assert not page.all("script", "link", "iframe")
    for attrs in page.all("img", "source"):
        source = attrs.get("src") or attrs.get("srcset") or ""
        assert source.startswith("data:image/svg+xml;base64,")
    for attrs in page.all("a"):
        target = (made / name).parent / str(attrs["href"])
        assert target.exists(), attrs["href"]
    named = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(named)) == len(named)
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert "scale: tiny" in page.text
    assert "Does a gate recall more than the mean?" in page.text


def test_a_page_can_be_read_without_seeing_it(made: Path) -> None:
    page = Page((made / "fusion-tiny" / "report.html").read_text())
    assert all(attrs["alt"] for attrs in page.all("img"))
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.all("th"))
    boxes = [attrs for attrs in page.all("div") if attrs.get("class") == "scroll"]
    assert len(boxes) == len(page.all("table"))
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)


def test_a_page_says_what_is_asked_of_it(made: Path) -> None:
    text = Page((made / "fusion-tiny" / "report.html").read_text()).text
    for part in (
        "is better than “mean”", "“gate | <b>” (+0.293 [+0.2", "▲ better", "6 of 6",
        "python -m hymba_lab.sweep sweeps/fusion.yaml --out results", "c0ffeec0ff", "an abacus",
        "0.50 h of compared runs, 0.25 h of tuning", "Tuned alike.", "What was not measured",
    ):  # fmt: skip
        assert part in text, part


# --- verdicts in a sentence


def sentence_of(folder: Path) -> str:
    return sentence(documents(read_export(folder))[0])


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ((0.8, 0.82, 0.83), " (+0.300 [+0.256, +0.344]) is better than “mean”."),
        ((0.2, 0.22, 0.23), "is worse than “mean”"),
        ((0.2, 0.9, 0.5), "cannot be told from “mean” (a difference of up to 0."),
        ((0.5, 0.51, 0.54), "cannot be told from “mean” (a difference of up to 0.048"),
    ],
)
def test_the_verdict_in_a_sentence(
    tmp_path: Path, gate: tuple[float, float, float], said: str
) -> None:
    found = sentence_of(write_export(tmp_path, runs=runs_with(gate)))
    assert found.startswith("By recall accuracy, “gate | <b>”")
    assert said in found


def test_what_failed_is_missing_never_zero(tmp_path: Path) -> None:
    lines = runs_with((0.8, 0.8, 0.8), status="failed", reason="nan")
    folder = write_export(tmp_path, runs=lines)
    assert sentence_of(folder) == "By recall accuracy, “gate | <b>” is not measured."
    assert report("--results", tmp_path).code == 0
    text = Page((folder / "report.html").read_text()).text
    assert "Not measured, gate | <b>: 3 of 3 seeds (seed 0 failed: nan" in text


def test_nothing_finished_is_no_verdict(tmp_path: Path) -> None:
    lines = [{**line, "status": "missing"} for line in runs_with((0.8, 0.8, 0.8))]
    folder = write_export(tmp_path, runs=lines)
    assert sentence_of(folder).startswith("No verdict: no run has measured recall accuracy")
    assert report("--results", tmp_path).code == 0
    assert "nothing to draw" in (folder / "report.html").read_text()


# --- the paper's numbers


def test_the_papers_numbers_have_a_column_and_a_mark_of_their_own(tmp_path: Path) -> None:
    paper = {"label": "table 10, recall [%]", "values": {ROWS[0]: 51.79}}
    folder = write_export(tmp_path, sweep={"paper": paper})
    assert report("--results", tmp_path).code == 0
    page = Page((folder / "report.html").read_text())
    assert "paper ◆ (its own models, data and scale)" in page.text
    assert "◆ 51.79" in page.text
    marked = [attrs for attrs in page.all("td") if "paper" in str(attrs.get("class"))]
    assert len(marked) == len(ROWS)
    frame = documents(read_export(folder))[0].frame
    assert frame.loc[0, "paper"] == 51.79
    assert not np.isclose(frame[["mean", "effect"]].to_numpy(float), 51.79).any()


def test_the_papers_trade_off_has_a_panel_of_its_own(tmp_path: Path) -> None:
    label = "arXiv:2411.13676: recall accuracy [%], at 300M"
    paper = {"label": label, "values": dict.fromkeys(ROWS, 50.0), "caches": {ROWS[0]: 4e7}}
    folder = write_export(tmp_path, sweep={"paper": paper})
    assert paper_costs(read_export(folder)) is None  # one point makes no trade-off
    paper["caches"] = dict(zip(ROWS, (4e7, 1e8), strict=True))
    export = read_export(write_export(tmp_path, sweep={"paper": paper}))
    table, _ = documents(export)
    (picture,) = [p for p in pictures(export, table, folder) if p.name == "trade_off_cache_bytes"]
    ours, theirs = picture.draw(width=6.6).axes
    assert theirs.get_ylabel() == "paper: recall accuracy [%]"
    assert ours.get_ylim()[1] < 2 < theirs.get_ylim()[0]


# --- names, scales, the list of sweeps


@pytest.mark.parametrize("name", ["fusion", "fusion-tiny", "results/fusion-tiny", "fusion.yaml"])
def test_a_sweep_is_found_by_any_of_its_names(tmp_path: Path, name: str) -> None:
    write_export(tmp_path)
    write_export(tmp_path, "other-tiny")
    assert report(name, "--results", tmp_path).code == 0
    assert (tmp_path / "fusion-tiny" / "report.html").exists()
    assert not (tmp_path / "other-tiny" / "report.html").exists()
    assert "other-tiny" in (tmp_path / "index.html").read_text()


def test_another_scale_of_the_same_sweep_is_linked(tmp_path: Path) -> None:
    write_export(tmp_path)
    write_export(tmp_path, "fusion-125m", runs=[
        run(row, seed, scale="125m") for row in ROWS for seed in SEEDS
    ])  # fmt: skip
    assert report("--results", tmp_path).code == 0
    for one, other in (("tiny", "125m"), ("125m", "tiny")):
        text = (tmp_path / f"fusion-{one}" / "report.html").read_text()
        assert f'href="../fusion-{other}/report.html"' in text
        assert "whether an effect grows" not in text


def test_the_readme_keeps_what_is_not_its_table(tmp_path: Path) -> None:
    export = read_export(write_export(tmp_path))
    entries = [Entry(export, documents(export)[0])]
    readme = tmp_path / "README.md"
    assert not keep_readme(readme, entries)
    readme.write_text("before\n")
    assert not keep_readme(readme, entries) and readme.read_text() == "before\n"
    readme.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    assert keep_readme(readme, entries)
    text = readme.read_text()
    assert text.startswith(f"before\n{START}\n") and text.endswith(f"{END}\nafter\n")
    assert "old" not in text and "gate \\| <b>" in text


def test_the_list_counts_what_was_answered() -> None:
    asked: dict[bool, list[str]] = {True: [], False: []}
    for folder in RESULTS.glob("*-nano"):
        sweep = json.loads((folder / "sweep.resolved.json").read_text())["sweep"]
        raced = sweep.get("tuning") == "race"
        with (folder / "table.csv").open(newline="") as file:
            asked[raced] += [line["verdict"] for line in csv.DictReader(file)]
    counts = []
    for verdicts in (asked[True] + asked[False], asked[True]):
        rows = [verdict for verdict in verdicts if verdict != "baseline"]
        counts.append(
            (sum(row.startswith(("better", "worse", "equiv")) for row in rows), len(rows))
        )
    (n, of), (n_raced, of_raced) = counts
    said = f"Of {of} comparisons {n} are answered: better, worse or equivalent; where a race tuned "
    said += f"the rows, {n_raced} of {of_raced}. Those of the same runs counted once, "
    assert f"{said}{once('raced', 'other')} and {once('raced')}." in text_of("README.md")


def text_of(name: str) -> str:
    return (RESULTS / name).read_text()


def once(*kinds: str) -> str:
    """How many pairs of sets of runs are compared, and in how many a table has an answer."""
    found: dict[frozenset[frozenset[str]], bool] = {}
    for folder in RESULTS.glob("*-nano"):
        sweep = json.loads((folder / "sweep.resolved.json").read_text())["sweep"]
        if ("raced" if sweep.get("tuning") == "race" else "other") not in kinds:
            continue
        runs: dict[str, set[str]] = {}
        with (folder / "runs.csv").open(newline="") as file:
            for run in csv.DictReader(file):
                runs.setdefault(run["row"], set()).add(run["identity"])
        with (folder / "table.csv").open(newline="") as file:
            lines = {line["row"]: line["verdict"] for line in csv.DictReader(file)}
        baseline = next(row for row, verdict in lines.items() if verdict == "baseline")
        for row in lines.keys() - {baseline}:
            pair = frozenset((frozenset(runs[row]), frozenset(runs[baseline])))
            answers = lines[row].startswith(("better", "worse", "equiv"))
            found[pair] = found.get(pair, False) or answers
    return f"{sum(found.values())} of {len(found)}"


# --- from MLflow

STOP = "stop: {metric: val/recall_accuracy, at: 0.1}\n"
ONE_TRIAL = "search: {optimizer.lr: {choices: [1.0e-3]}}\ntrials_per_cell: 1\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = Lab(tmp_path_factory.mktemp("trained"), SWEEP + ONE_TRIAL + STOP).with_store()
    assert lab.run("--out", str(lab.folder / "results")).code == 0
    return lab


@pytest.mark.slow
def test_a_finished_sweep_is_reported_from_its_export(trained: Lab) -> None:
    folder = trained.folder / "results" / "sweep-tiny"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert report("--results", folder.parent).code == 0
    assert {name: (folder / name).read_bytes() for name in before} == before
    curves = pd.read_csv(folder / "curves.csv")
    assert set(curves["metric"]) == {METRIC}
    assert "--root" not in json.loads(before["export.json"])["command"], "a place of this machine"
    trained_on = pd.read_csv(folder / "runs.csv").set_index(["row", "seed"])["tokens_trained"]
    assert dict(curves.groupby(["row", "seed"])["tokens"].max()) == dict(trained_on)
    assert trained_on.nunique() == 2  # some solved it early


def test_mlflow_holds_the_same_table(trained: Lab, tmp_path: Path) -> None:
    assert report("--results", tmp_path, "--tracking-uri", default_uri(trained.folder)).code == 0
    export = trained.folder / "results" / "sweep-tiny"
    for name in ("table.csv", "table.md", "table.tex", "curves.csv", "export.json"):
        assert (tmp_path / "sweep-tiny" / name).read_text() == (export / name).read_text(), name


def test_what_mlflow_lacks_is_missing(trained: Lab, tmp_path: Path) -> None:
    store = trained.store()
    found = store.runs_by_identity(store.experiment("sweep-tiny")).values()
    (lost,) = [one.info.run_id for one in found if one.info.run_name == "gate, seed 1"]
    store.client.delete_run(lost)
    try:
        export_from(default_uri(trained.folder), ["sweep"], tmp_path)
    finally:
        store.client.restore_run(lost)
    runs = read_export(tmp_path / "sweep-tiny").runs
    assert list(zip(runs["row"], runs["seed"], runs["status"], strict=True)) == [
        ("mean", 0, "finished"),
        ("mean", 1, "finished"),
        ("gate", 0, "finished"),
        ("gate", 1, "missing"),
    ]
    assert runs["reason"].iloc[3] == "not in the store"


def test_two_runs_for_one_place_are_refused(trained: Lab, tmp_path: Path) -> None:
    store = trained.store()
    experiment = store.experiment("sweep-tiny")
    found = store.runs_by_identity(experiment).values()
    (whole,) = [one for one in found if one.info.run_name == "gate, seed 1"]
    copy = store.open_run(experiment, "gate, seed 1", "another", {ROLE: "trial", STAGE: "seed"})
    copy.describe(whole.data.params)
    try:
        with pytest.raises(UserError, match=r"two runs of 'gate' seed 1, identities .*another"):
            export_from(default_uri(trained.folder), ["sweep"], tmp_path)
    finally:
        store.client.delete_run(copy.id)


def test_a_sweep_that_is_not_in_mlflow_is_an_error(trained: Lab, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no experiment of a sweep 'swep'; choose one of sweep-t"):
        export_from(default_uri(trained.folder), ["swep"], tmp_path)


def test_a_scale_with_a_dash_is_one_name(trained: Lab, tmp_path: Path) -> None:
    """`sweep-huge-2` is the sweep `sweep` at `huge-2`: what the export says, not the last dash."""
    store = trained.store()
    experiment = store.sweeps()["sweep-tiny"]
    resolved = json.loads((trained.folder / "results/sweep-tiny/sweep.resolved.json").read_text())
    resolved["base"]["scale"] = "huge-2"
    parts = {"sweep.resolved.json": json.dumps(resolved)}
    with (
        patch.object(Store, "sweeps", lambda self: {"sweep-huge-2": experiment}),
        patch.object(Store, "attached", lambda self, of, names: parts),
    ):
        uri = default_uri(trained.folder)
        assert export_from(uri, ["sweep"], tmp_path) == ["sweep-huge-2"]
        told = json.loads((tmp_path / "sweep-huge-2" / "export.json").read_text())["command"]
        assert "sweeps/sweep.yaml" in told
        with pytest.raises(UserError, match="no experiment of a sweep 'sweep-huge'"):
            export_from(uri, ["sweep-huge"], tmp_path)


def test_a_sweep_named_by_its_folder_is_reported_there(tmp_path: Path) -> None:
    from hymba_lab.report.find import beside, chosen

    own = write_export(tmp_path / "runs" / "sweeps")
    assert beside([str(own)], RESULTS) == own.parent
    assert [export.name for export in chosen(own.parent, [str(own)])] == [own.name]
    assert beside(["fusion"], RESULTS) == RESULTS
    other = write_export(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="lie in"):
        beside([str(own), str(other)], RESULTS)
    mistyped = str(tmp_path / "elsewehre" / own.name)  # not that of the same name in `results`
    with pytest.raises(UserError, match=r"elsewehre.*: no export \(export.json\) stands there"):
        chosen(own.parent, [mistyped])


def test_pictures_that_no_report_made_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    folder.mkdir()
    for name in ("for_the_talk.pdf", "old_one.png"):
        (folder / name).write_bytes(b"")
    (tmp_path / "report.html").write_text('<a href="figures/old_one.png">png</a>')
    assert draw([], folder) == []
    assert [path.name for path in folder.iterdir()] == ["for_the_talk.pdf"]


def test_a_run_that_its_sweep_does_not_have_is_refused(trained: Lab, tmp_path: Path) -> None:
    """A row that was taken out, or another lab's sweep of the name, made a larger table."""
    store = trained.store()
    experiment = store.experiment("sweep-tiny")
    [run] = [one for one in store.runs_by_identity(experiment).values()
             if one.info.run_name == "gate, seed 1"]  # fmt: skip
    tags = {tag: run.data.tags[tag] for tag in (STAGE, ROLE)}
    other = store.open_run(experiment, "gone, seed 1", "f" * 64, tags)
    try:
        with pytest.raises(UserError, match=r"gone, seed 1\) has no row, seed"):
            export_from(default_uri(trained.folder), ["sweep"], tmp_path)
        other.describe({**run.data.params, "row": "gone"}, {})
        other.end()
        said = "a run of 'gone' seed 1, identity ffff.*its sweep does not have"
        with pytest.raises(UserError, match=said):
            export_from(default_uri(trained.folder), ["sweep"], tmp_path)
    finally:
        store.client.delete_run(other.id)


def test_a_task_s_trade_off_is_of_how_soon_it_was_solved() -> None:
    """The level of a run that stopped says when it did: worse rows stood on the front."""
    task = Task("m", 0.9, 0.3, {
        "soon": {0: Run(200e3, True), 1: Run(800e3, True)},
        "half": {0: Run(100e3, True), 1: Run(900e3, False)},
    }, [])  # fmt: skip
    frame = pd.DataFrame({"row": ["soon", "half"], "mean": [0.95, 0.99], "mean_low": [0.9, 0.9],
                          "mean_high": [1.0, 1.0], "metric": ["m", "m"]})  # fmt: skip
    found = frame_of_times(frame, task).set_index("row")
    assert found.loc["soon", ["mean", "mean_low", "mean_high"]].tolist() == pytest.approx(
        [400, 200, 800]
    )
    assert found.loc["half", "mean"] != found.loc["half", "mean"], "not every run solved"
    assert set(found["metric"]) == {"training tokens until solved [k]"}
    assert frame["mean"].tolist() == [0.95, 0.99]


def test_probes_of_other_runs_are_refused(tmp_path: Path) -> None:
    """Probed, tuned anew and exported again, a row kept the maps of its old models."""
    folder = write_export(tmp_path)
    write_probe(folder)
    runs = read_export(folder).runs
    done = runs[runs["status"] == "finished"]
    mark = mark_of(zip(done["row"], map(int, done["seed"]), done["identity"], strict=True))
    told = folder / "probes" / "README.md"
    told.write_text(f"# Probes\n\n- Identities: {mark}\n")
    assert report("--results", tmp_path).code == 0
    told.write_text("# Probes\n\n- Identities: 0123456789abcdef\n")
    ended = report("--results", tmp_path)
    assert ended.code == 2 and "the probes are of other runs than runs.csv" in ended.err
