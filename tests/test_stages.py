"""Stages after the pretraining: one chain of runs, shared, resumed, judged like any other."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("trl")
pytest.importorskip("lm_eval")

from conftest import ROOT, TINY
from staging import BASE, SWEEP, staged_lab
from sweeping import Lab

from hymba_lab.checkpoints.load import load
from hymba_lab.config import Config, from_resolved, load_config
from hymba_lab.config.stages import SUITES
from hymba_lab.errors import ConfigError, DataError, LeaseLost, StoreError, TrialFailed
from hymba_lab.evaluation.suites import names as suites
from hymba_lab.runs.folder import RunFolder
from hymba_lab.runs.lease import take
from hymba_lab.stages import run as stage_run
from hymba_lab.stages import single
from hymba_lab.stages.chain import chain, identities
from hymba_lab.stages.single import train
from hymba_lab.sweep import staged
from hymba_lab.sweep.coordinator import Coordinator
from hymba_lab.sweep.estimate import finished_so_far, plan_notes
from hymba_lab.sweep.jobs import Job
from hymba_lab.sweep.launchers.base import Launcher
from hymba_lab.sweep.task import Task

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
MEASURED = {"tokens_per_second", "seconds", "commit", "dirty"}


def config_of(lab: Lab, *overrides: str) -> Config:
    return load_config(lab.folder / "tiny.yaml", overrides)


def chain_of(lab: Lab, row: int = 0, seed: int = 0) -> list[RunFolder]:
    """The folders of a row's chain."""
    session = lab.session()
    config = session.cells[row].config
    found = identities(config, seed, session.mixture.fingerprint)
    return [RunFolder(lab.folder, identity) for identity in found]


def numbers(lab: Lab, name: str = "sweep-tiny") -> list[dict[str, str]]:
    lines = csv.DictReader(io.StringIO(lab.report("runs.csv", name)))
    return [{key: line[key] for key in line if key not in MEASURED} for line in lines]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = staged_lab(tmp_path_factory.mktemp("staged"))
    ended = lab.run()
    assert ended.code == 0, ended.err
    return lab


# --- what a file says


def test_a_list_is_its_mapping_and_counts_by_order_and_content(tmp_path: Path) -> None:
    lab = staged_lab(tmp_path)
    listed = config_of(lab)
    assert list(listed.stages) == ["sft", "evaluate"]
    again = from_resolved(json.loads(json.dumps(listed.resolved())), own=True)
    assert again.digest == listed.digest
    lab.write("other/c.jsonl", (lab.folder / "chats.jsonl").read_bytes())
    moved = config_of(lab, f"stages.sft.data.paths=[{lab.folder}/other/c.jsonl]")
    assert moved.digest == listed.digest
    assert config_of(lab, "stages.sft.log_every=7").digest == listed.digest
    for change in ("stages.sft.lr=2.0e-2", "stages.evaluate.limit=3", "stages.sft.seq_len=32"):
        assert config_of(lab, change).digest != listed.digest
    lab.write("chats.jsonl", (lab.folder / "chats.jsonl").read_bytes() * 2)
    assert config_of(lab).digest != listed.digest


def test_data_of_a_task_count_and_so_does_the_order_of_stages(tmp_path: Path) -> None:
    lab = staged_lab(tmp_path)
    before = config_of(lab).digest
    (lab.folder / "tasks/digits.jsonl").write_text('{"q": "0?", "choices": ["1"], "answer": 0}\n')
    assert config_of(lab).digest != before
    text = BASE.replace("- evaluate", "- sft2: {name: sft, data: {paths: [chats.jsonl]}, "
        "template: plain, lr: 0.1, rows: 1}\n  - evaluate")  # fmt: skip
    lab.write("tiny.yaml", text)
    config = config_of(lab)
    items = dict(reversed([item for item in config.stages.items() if item[0] != "evaluate"]))
    one = config.model_copy(update={"stages": {k: config.stages[k] for k in ("sft", "sft2")}})
    assert one.digest != config.model_copy(update={"stages": items}).digest


def test_without_stages_an_experiment_is_what_it_was(tmp_path: Path) -> None:
    lab = staged_lab(tmp_path)
    whole = config_of(lab)
    lab.write("plain.yaml", BASE.split("stages:")[0])
    plain = load_config(lab.folder / "plain.yaml")
    assert chain(whole)[0].digest == plain.digest
    assert "stages" not in plain.resolved()


def test_the_named_suites_are_those_that_are_shipped() -> None:
    assert set(SUITES) == set(suites())


def sft(more: str = "", template: str = "plain") -> str:
    keys = f"data: {{paths: [chats.jsonl]}}, template: {template}, lr: 0.1, rows: 2{more}"
    return f"sft: {{{keys}}}"


FAULTS = [
    ("[sft]", "needs its keys"),
    ("[{evaluate: {suite: tasks}}, pretrain]", "pretrain is the first stage"),
    ("[7]", "a stage is its label"),
    ("[{sft: {}, dpo: {}}]", "a stage is its label"),
    (f"[{{{sft()}}}, {{{sft()}}}]", "two stages sft"),
    ("[{val: {name: evaluate, suite: tasks}}]", "val is taken"),
    ("[{SFT: {name: evaluate}}]", "match pattern"),
    ("[{more: {lr: 1}}]", "stages.more"),
    ("[{more: {name: rlhf}}]", "no component 'rlhf'; choose one of sft, dpo, evaluate"),
    (f"[{{{sft(', learning_rate: 1')}}}]", "no key 'learning_rate'"),
    (f"[{{{sft(', micro_rows: 3')}}}]", "3 does not divide rows, 2"),
    (f"[{{{sft(', method: {name: lora, merge: false}')}}}]", "no weights to go on with"),
    ("[{sft: {data: {paths: [no.jsonl]}, lr: 0.1, rows: 2}}]", "there is no file"),
    (f"[{{{sft(template='x.jinja')}}}]", "there is no file"),
    ("[{evaluate: {suite: no_tasks}}]", "no folder of tasks"),
    ("[{evaluate: {suite: tasks, limit: 0}}]", "greater than or equal to 1"),
    (f"[{{evaluate: {{suite: tasks}}}}, {{{sft()}}}]", "evaluation is the last stage"),
    ("[{evaluate: {suite: tasks, contents: abc}}]", "they were changed"),
    ("3", "a mapping of keys to values is needed"),
]


@pytest.mark.parametrize(("stages", "said"), FAULTS, ids=range(len(FAULTS)))
def test_faults_of_stages_have_a_place(stages: str, said: str, tmp_path: Path) -> None:
    lab = staged_lab(tmp_path, base=BASE.split("stages:")[0] + f"stages: {stages}\n")
    with pytest.raises(ConfigError, match=r"tiny\.yaml:\d+:\d+: ") as fault:
        config_of(lab)
    assert said in str(fault.value)
    ended = lab.run()
    assert (ended.code, ended.out) == (2, "")
    assert not list(lab.folder.glob("runs/*/*"))


SWEEP_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"metric": {"name": "eval/digit/acc", "goal": "maximize"}}, "no task 'digit'"),
    ({"metric": {"name": "sft/val/loss", "goal": "minimize"}}, "no run will have 'sft/val/loss'"),
    ({"stop": {"metric": "val/loss", "at": 1.0, "goal": "minimize"}}, "ends a pretraining early"),
    ({"axes": {"rate": {"a": {"stages.sft.lrr": 1}, "b": {}}}}, "no key 'lrr'"),
    ({"axes": {"rate": {"a": {"stages.dpo.lr": 1}, "b": {}}}}, "no key 'dpo'"),
    ({"pruner": {"name": "median"}}, "looks at validations of the pretraining"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "said"), SWEEP_FAULTS, ids=[said for _, said in SWEEP_FAULTS])
def test_faults_of_a_sweep_over_stages(keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    lab = staged_lab(tmp_path)
    lab.edit(**keys)
    ended = lab.run()
    assert ended.code == 2
    assert said in ended.err
    assert "sweep.yaml:" in ended.err


def test_examples_are_read_and_encoded_before_anything_is_trained(tmp_path: Path) -> None:
    lab = staged_lab(tmp_path)
    lab.write("chats.jsonl", (lab.folder / "chats.jsonl").read_bytes() + b'{"messages": 3}\n')
    ended = lab.run()
    assert ended.code == 2
    assert "chats.jsonl:9" in ended.err
    lab.write("chats.jsonl", (lab.folder / "pairs.jsonl").read_bytes())
    assert "chats.jsonl:1: a preference pair; those are for DPO" in lab.run().err
    chats = [{"role": "user", "content": "?" * 60}, {"role": "assistant", "content": "!"}]
    lab.write("chats.jsonl", json.dumps({"messages": chats}) + "\n")
    ended = lab.run()
    assert (ended.code, "chats.jsonl:1: has 80 tokens, seq_len allows 64" in ended.err) == (2, True)
    with pytest.raises(DataError, match="allows 64"):
        train(config_of(lab), root=lab.folder)
    assert not list(lab.folder.glob("runs/*/*.safetensors"))
    recall = TINY + BASE[BASE.index("stages:") :]
    assert "need a source of text" in staged_lab(tmp_path, base=recall).run().err


def test_tasks_are_loaded_before_anything_is_trained(tmp_path: Path) -> None:
    lab = staged_lab(tmp_path)
    (lab.folder / "tasks/digits.jsonl").unlink()
    ended = lab.run("--plan")
    assert ended.code == 2
    assert "the data of 1 task(s) are neither in files nor in the cache" in ended.err
    asked = "stages: [{evaluate: {suite: tasks, apply_chat_template: true}}]\n"
    lab = staged_lab(tmp_path / "other", base=BASE[: BASE.index("stages:")] + asked)
    with pytest.raises(ConfigError, match=r"tiny\.yaml:\d+:\d+: .*no stage before has a template"):
        train(config_of(lab), root=lab.folder)
    assert not list(lab.folder.glob("runs/*/*.safetensors"))


# --- what a sweep makes of it


@pytest.mark.slow
def test_the_table_judges_what_was_evaluated(done: Lab) -> None:
    lines = numbers(done)
    assert [line["status"] for line in lines] == ["finished"] * 4
    for line in lines:
        assert 0 <= float(line["eval/digits/acc"]) <= 1
        assert float(line["sft/train/loss"]) > 0
    assert "eval/digits/acc" in done.report("table.md")
    assert "too few seeds" in done.report("table.md")
    store = done.store()
    found = store.client.search_runs([store.experiment("sweep-tiny")], "params.seed = '0'")
    assert len(found) == 2
    for run in found:
        assert {"eval/digits/acc", "val/loss", "sft/train/loss"} <= run.data.metrics.keys()
        course = store.client.get_metric_history(run.info.run_id, "sft/train/loss")
        assert {point.step for point in course} == {11, 12, 13}  # behind the pretraining's ten


@pytest.mark.slow
def test_every_run_of_a_chain_is_a_run(done: Lab) -> None:
    pretrained, tuned, evaluated = chain_of(done)
    records = [folder.result for folder in (pretrained, tuned, evaluated)]
    assert all(record is not None for record in records)
    first, second, third = (record or {} for record in records)
    assert second["stage"]["from"] == pretrained.identity
    assert third["stage"]["evaluation"]["digits"]["limit"] == 4
    assert first["metrics"].items() < second["metrics"].items() < third["metrics"].items()
    one, two, three = (load(f.path, None, texts=True)[0].state_dict()
                       for f in (pretrained, tuned, evaluated))  # fmt: skip
    assert any(not torch.equal(one[name], two[name]) for name in one)
    assert all(torch.equal(two[name], three[name]) for name in two)
    model = load(tuned.path / "model", None, texts=False)[0].state_dict()
    assert all(torch.equal(two[name], model[name]) for name in two)
    assert not (tuned.path / "start").exists()
    assert not (pretrained.path / "last.ckpt").exists()


@pytest.mark.slow
def test_a_finished_sweep_trains_nothing_and_its_plan_counts_stages(
    done: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_stage(*_: Any) -> Any:
        raise AssertionError("everything is there")

    monkeypatch.setattr(stage_run, "_stage", no_stage)
    before = done.results()
    assert done.run().code == 0
    assert done.results() == before
    assert len(before) == 12
    session = done.session()
    notes = "\n".join(plan_notes(session, finished_so_far(session), {}, 2))
    assert "4 pretrain (4 finished), 4 sft (4 finished), 4 evaluate (4 finished)" in notes


@pytest.mark.slow
def test_runs_are_shared_by_what_they_begin_with(
    done: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep without stages, and one over a rate of the tuning, train no pretraining anew."""

    def no_fit(*_: Any, **__: Any) -> Any:
        raise AssertionError("it is pretrained already")

    monkeypatch.setattr(staged, "fit", no_fit)
    axes = {"lr": {"low": {"stages.sft.lr": 1e-3}, "same": {"stages.sft.lr": 1e-2}}}
    question = {"question": "?", "base": "tiny.yaml", "seeds": [0], "axes": axes,
                "metric": {"name": "eval/digits/acc", "goal": "maximize"}}  # fmt: skip
    done.write("rates.yaml", json.dumps(question))
    n = len(done.results())
    ended = done.run(name="rates.yaml")
    assert ended.code == 0, ended.err
    assert len(done.results()) == n + 2  # another tuning and its evaluation
    done.write("plain.yaml", json.dumps(question | {
        "set": {"stages": {}}, "metric": {"name": "val/loss", "goal": "minimize"},
        "axes": {"fusion": {"mean": {}, "gate": {"model.fusion": {"name": "gate"}}}},
    }))  # fmt: skip
    monkeypatch.setattr("hymba_lab.sweep.trial.fit", no_fit)
    ended = done.run(name="plain.yaml")
    assert ended.code == 0, ended.err
    assert len(done.results()) == n + 2


class Never(Launcher):
    """A launcher whose trials are asked for and never end."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def submit(self, function: Callable[[Any], str], task: Any) -> "Future[str]":
        self.asked.append(task.identity)
        return Future()


def asked_for(lab: Lab) -> int:
    """How many trials a coordinator asks for at once, with room for all of them."""

    def task(job: Job, _: Any) -> Task:
        return Task(str(lab.folder), job.identity, {}, job.seed, 1, {}, "", "", "", "", {}, {})

    def leave() -> None:
        raise InterruptedError

    launcher = Never()
    coordinator = Coordinator(lab.session().planner, lab.folder, task, [], tick=leave)
    with pytest.raises(InterruptedError):
        coordinator.run(launcher)
    coordinator.release()
    return len(launcher.asked)


@pytest.mark.slow
def test_no_worker_waits_for_a_pretraining_that_another_one_makes(
    done: Lab, tmp_path: Path
) -> None:
    """Three rates of the tuning share their pretraining: two join when it is there."""
    rates = {"low": {"stages.sft.lr": 1e-3}, "same": {"stages.sft.lr": 1e-2},
             "high": {"stages.sft.lr": 1e-1}}  # fmt: skip
    lab = staged_lab(tmp_path)
    lab.edit(axes={"lr": rates})
    assert asked_for(lab) == 2  # a seed each
    pretrained = [chain_of(lab, seed=seed)[0] for seed in (0, 1)]
    lease = take(pretrained[0].path)  # as another laboratory's worker would
    assert lease is not None
    assert asked_for(lab) == 1
    lease.release()
    shutil.copytree(chain_of(done)[0].path, pretrained[0].path, dirs_exist_ok=True)
    assert asked_for(lab) == 3 + 1


# --- interrupted


def broken_once(real: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
    calls = []

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise error
        return real(*arguments, **options)

    return call


@pytest.mark.slow
@pytest.mark.parametrize("where", ["_as_run", "_tuned", "_evaluated", "_linked"])
def test_what_broke_off_anywhere_goes_on_to_the_same_numbers(
    where: str, done: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = staged_lab(tmp_path, sweep=SWEEP.replace("[0, 1]", "[0]"))
    real = getattr(stage_run, where)
    monkeypatch.setattr(stage_run, where, broken_once(real, KeyboardInterrupt()))
    assert lab.run().code != 0
    assert len(lab.results()) < 6
    monkeypatch.undo()
    ended = lab.run()
    assert ended.code == 0, ended.err
    assert numbers(lab) == [line for line in numbers(done) if line["seed"] == "0"]


@pytest.mark.slow
def test_rates_of_a_stage_race_over_the_compared_seeds(tmp_path: Path) -> None:
    lab = staged_lab(tmp_path)
    lab.edit(
        search={"stages.sft.lr": {"choices": [1e-2, 1e-3]}}, sampler={"name": "grid"},
        trials_per_cell=2, tuning="race", behind=5.0,
        metric={"name": "val/loss", "goal": "minimize"},
    )  # fmt: skip
    assert lab.run().code == 0
    lines = numbers(lab)
    assert [line["status"] for line in lines] == ["finished"] * 4
    tried = csv.DictReader(io.StringIO(lab.report("tuning.csv", "sweep-tiny")))
    assert {line["stages.sft.lr"] for line in tried} == {"0.01", "0.001"}
    records = [RunFolder(lab.folder, path.name).result for path in lab.folder.glob("runs/*/")]
    pretrained = [one for one in records if one and "stage" not in one]
    assert len(pretrained) == 4, "a row's rates go on from one pretraining a seed"


@pytest.mark.slow
def test_a_failed_stage_is_a_failed_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise TrialFailed("nan", "the loss is nan")

    monkeypatch.setattr(stage_run, "_tuned", fails)
    lab = staged_lab(tmp_path, sweep=SWEEP.replace("[0, 1]", "[0]"))
    lab.run()
    assert "failed: nan" in lab.report("table.md")
    assert len(lab.results()) == 2  # the pretrainings


@pytest.mark.slow
def test_train_makes_the_runs_of_the_sweep(done: Lab) -> None:
    before = done.results()
    found = train(done.folder / "tiny.yaml", 0, root=done.folder)
    assert done.results() == before
    assert "eval/digits/acc" in found.metrics


def test_ranks_of_torchrun_are_told_that_stages_have_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They waited for each other: one for its group, the others for its lease."""
    lab = staged_lab(tmp_path)
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**place, "MASTER_PORT": "29999"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="one process trains the stages; start it without torchr"):
        train(config_of(lab), root=lab.folder)
    assert not (lab.folder / "runs").exists()


@pytest.mark.slow
def test_train_goes_through_every_stage(tmp_path: Path) -> None:
    lab = staged_lab(tmp_path)
    found = train(lab.folder / "tiny.yaml", 3, root=lab.folder)
    assert {"val/loss", "sft/train/loss", "eval/digits/acc"} <= set(found.metrics)
    assert len(lab.results()) == 3


def kill_once_there(lab: Lab, sign: str) -> None:
    """Start the command, and kill all its processes at work once a file of a run is there."""
    with (lab.folder / "errors").open("w+") as errors:
        command = subprocess.Popen(
            [sys.executable, "-m", "hymba_lab.sweep", *lab.argv("--workers", "1")],
            cwd=lab.folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True,
        )  # fmt: skip
        while not list((lab.folder / "runs").glob(f"*/{sign}")):
            assert command.poll() is None, f"{sign}: {(lab.folder / 'errors').read_text()}"
            time.sleep(0.01)
        os.killpg(command.pid, signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL, "it had ended before it was hit"


@pytest.mark.slow
def test_killed_at_any_moment_the_table_is_the_same(done: Lab, tmp_path: Path) -> None:
    """In the pretraining, before the tuning, in it, and behind the evaluation of one chain."""
    lab = staged_lab(tmp_path)
    for sign in ("lease.*.json", "start", "model/checkpoints/checkpoint-*", "evaluation/*.json"):
        kill_once_there(lab, sign)
    assert len(lab.results()) < len(done.results())
    ended = lab.run()
    assert ended.code == 0, ended.err
    assert numbers(lab) == numbers(done)


def test_a_stage_killed_while_it_tidies_up_leaves_no_half_of_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run took the half for whole, and ended on it every time."""
    folder = RunFolder(tmp_path, "a" * 64)
    start = folder.path / "start"
    start.mkdir(parents=True)
    (start / "config.json").write_text("{}")
    monkeypatch.setattr(stage_run.shutil, "rmtree", lambda path, **_: None)  # as if killed there
    stage_run._remove_start(folder)
    assert not start.exists()


def test_a_chain_that_another_process_took_over_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It ended in a traceback, and closed the MLflow run that was the other's by then."""
    ended: list[str] = []

    def lost(*_: Any, **__: Any) -> Any:
        raise LeaseLost("runs/ab: another process has taken this run over.")

    monkeypatch.setattr(single, "run_chain", lost)
    nothing: Any = SimpleNamespace(fingerprint="")
    run: Any = SimpleNamespace(end=ended.append, place={})
    with pytest.raises(StoreError, match=r"taken this run over\. What came after that here is"):
        single._finished(nothing, nothing, nothing, nothing, 0, Path(), run)
    assert ended == []
