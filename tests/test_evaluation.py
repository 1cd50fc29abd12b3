"""Evaluation: scores equal an independent float64 sum, finished tasks are kept, no code runs."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_folders import HYMBA, lab_model, load, tiny_folder

pytest.importorskip("lm_eval")
os.environ.setdefault("TQDM_DISABLE", "1")

from hymba_lab.checkpoints.codec import Codec, SourceIds
from hymba_lab.checkpoints.load import load as load_checkpoint
from hymba_lab.commands import evaluate as command
from hymba_lab.data.tokenizers import Bytes
from hymba_lab.dialogue.template import PLAIN, Template
from hymba_lab.errors import UserError
from hymba_lab.evaluation import run as evaluation
from hymba_lab.evaluation import scoring
from hymba_lab.evaluation.evaluate import Evaluation
from hymba_lab.evaluation.harness_model import HarnessModel
from hymba_lab.evaluation.record import add_to_run
from hymba_lab.evaluation.run import run_suite
from hymba_lab.evaluation.scoring import Request, score
from hymba_lab.evaluation.suites import suite_of
from hymba_lab.evaluation.tasks import load_tasks
from hymba_lab.training.single import train

QUESTIONS = [
    {"q": f"{a} plus {b} is", "choices": [str(a + b), f"{a * b} or so", "none"], "answer": 0}
    for a in range(3)
    for b in range(3)
]
TASKS = {
    "choices": "output_type: multiple_choice\ndoc_to_choice: '{{choices}}'\n"
    "metric_list:\n  - {metric: acc, aggregation: mean, higher_is_better: true}\n",
    "letters": "output_type: multiple_choice\ndoc_to_choice: ['A', 'B', 'C']\n"
    "metric_list:\n  - {metric: acc, aggregation: mean, higher_is_better: true}\n",
    "texts": "output_type: loglikelihood_rolling\ntest_split: test\n"
    "metric_list:\n  - {metric: bits_per_byte, aggregation: bits_per_byte, "
    "higher_is_better: false}\n",
    "answers": "output_type: generate_until\n"
    "generation_kwargs: {until: ['e', '0'], max_gen_toks: 6, do_sample: false}\n"
    "metric_list:\n  - {metric: exact_match, aggregation: mean, higher_is_better: true}\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def task_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four task files and their data; the cache of `datasets` is the test's own."""
    place = tmp_path_factory.mktemp("my_tasks")
    (place / "q.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    for name, text in TASKS.items():
        target = "'{{q}}'" if name == "texts" else "answer"
        target = "'{{choices[0]}}'" if name == "answers" else target
        (place / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: json\n"
            f"dataset_kwargs: {{data_files: {{test: {place}/q.jsonl}}}}\ntest_split: test\n"
            f"doc_to_text: '{'' if name == 'texts' else '{{q}}'}'\ndoc_to_target: {target}\n"
            + text.replace("test_split: test\n", "")
        )
    return place


def harness(folder: Path, n_rows: int = 32, dtype: str | None = None) -> HarnessModel:
    model, codec = load_checkpoint(folder, dtype, texts=True)
    assert codec is not None
    return HarnessModel(model, codec, n_rows=n_rows, max_length=100)


def by_hand(model: Any, context: list[int], continuation: list[int]) -> float:
    """The sum in float64 of log p, token by token, of one text alone."""
    with torch.no_grad():
        logits = model(torch.tensor([context + continuation]))[0].double()
    total = 0.0
    for place, token in enumerate(continuation, start=len(context) - 1):
        total += float(logits[place, token] - torch.logsumexp(logits[place], 0))
    return total


# --- scores


@pytest.mark.slow
@pytest.mark.parametrize("n_rows", [1, 5, 32])
def test_every_score_equals_a_float64_sum(n_rows: int, folder: Path, task_files: Path) -> None:
    """Of three local tasks, as their own requests: choices, letters, whole texts."""
    lm, model = harness(folder, n_rows), load_checkpoint(folder, None, texts=False)[0]
    tasks = load_tasks(suite_of(str(task_files)))
    checked = 0
    for name in ("choices", "letters", "texts"):
        task = tasks[name]["tasks"][name]
        task.set_config("num_fewshot", 0)
        task.build_all_requests(limit=6)
        if name == "texts":
            said = [(value, False) for value in lm.loglikelihood_rolling(task.instances)]
        else:
            said = lm.loglikelihood(task.instances)
        for instance, (value, _) in zip(task.instances, said, strict=True):
            context = lm.tok_encode(instance.args[0]) if name != "texts" else [1]
            if name == "texts":
                ids = lm.tok_encode(instance.args[0])
            else:
                ids = lm.codec.encode(instance.args[1], special=False)
            assert value == pytest.approx(by_hand(model, context, ids), abs=1e-5)
            checked += 1
    assert checked == 18 + 18 + 6


@pytest.mark.slow
@pytest.mark.parametrize("part", [{}, HYMBA, {"order": {"name": "sequential"}}], ids=len)
@pytest.mark.parametrize("n_rows", [2, 7])
def test_beginnings_that_are_shared_change_nothing(
    part: dict[str, Any], n_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Questions with one to four choices, equal inputs, texts that are cut."""
    monkeypatch.setattr(scoring, "_WORTH", 1)
    net = lab_model(**part).model.net.double()
    random = torch.Generator().manual_seed(0)

    def ids(n: int) -> list[int]:
        return torch.randint(0, 13, (n,), generator=random).tolist()

    requests = []
    for question in range(9):
        context = ids(int(torch.randint(1, 30, (), generator=random)))
        requests += [Request(context, ids(1 + k % 3)) for k in range(1 + question % 4)]
    requests.append(Request(requests[0].context, requests[0].continuation))
    said = score(net, requests, n_rows=n_rows, max_length=20)
    for request, answer in zip(requests, said, strict=True):
        row = torch.tensor([(request.context + request.continuation)[-21:]])
        n = len(request.continuation)
        with torch.no_grad():
            log_p = net(row[:, :-1])[0, -n:].log_softmax(-1)
        wanted = row[0, -n:]
        assert answer.log_likelihood == pytest.approx(
            log_p.gather(1, wanted[:, None]).sum().item(), abs=1e-9
        )
        assert answer.greedy == bool((log_p.argmax(-1) == wanted).all())


@pytest.mark.slow
def test_the_same_numbers_through_the_harness_own_class(folder: Path, task_files: Path) -> None:
    """`--model hf` on the same folder, batch size 1, as the release evaluates."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    theirs = HFLM(
        pretrained=load(folder), tokenizer=str(folder), backend="causal", batch_size=1,
        max_length=100,
    )  # fmt: skip
    manager = TaskManager(include_defaults=False, include_path=str(task_files))
    results = simple_evaluate(theirs, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0)
    ours = run_suite(harness(folder), suite_of(str(task_files)), folder / "out", {})
    for name in TASKS:
        for metric, value in ours[name]["metrics"][name].items():
            if "_stderr" not in metric:
                theirs_value = results["results"][name][f"{metric},none"]
                assert value == pytest.approx(theirs_value, abs=1e-5), (name, metric)


def test_a_byte_level_model_of_the_lab(task_files: Path, tmp_path: Path) -> None:
    from examples import experiment

    from hymba_lab.model import build_model

    torch.manual_seed(0)
    codec: Codec = SourceIds(Bytes(), 7)  # behind another source's ids
    model = build_model(experiment(init_std=0.2).model, 263).eval()
    lm = HarnessModel(model, codec, n_rows=4, max_length=64)
    records = run_suite(lm, suite_of(str(task_files)), tmp_path, {})
    assert set(records) == set(TASKS)
    assert 0 <= records["choices"]["metrics"]["choices"]["acc"] <= 1
    assert "acc_stderr" in records["choices"]["metrics"]["choices"]
    assert records["texts"]["metrics"]["texts"]["bits_per_byte"] > 0


# --- suites that are kept


def test_a_finished_task_is_not_asked_again(
    folder: Path, task_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, asked = suite_of(str(task_files), limit=3), []
    whole = evaluation._evaluated

    def counted(*arguments: Any) -> Any:
        asked.append(arguments[2].task)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(evaluation, "_evaluated", counted)
    with pytest.raises(KeyboardInterrupt):
        run_suite(harness(folder), suite, tmp_path, {"weights": "a"}, keep_samples=True)
    records = run_suite(harness(folder), suite, tmp_path, {"weights": "a"}, keep_samples=True)
    assert len(asked) == 5, "the two that were done are read back"
    assert records["choices"]["n_questions"] == {"choices": 3}
    again = run_suite(harness(folder), suite, tmp_path, {"weights": "a"})
    assert again == records and len(asked) == 5
    samples = (tmp_path / "texts.samples.jsonl").read_text().splitlines()
    assert len(samples) == 3 and "bits_per_byte" in json.loads(samples[0])
    run_suite(harness(folder), suite, tmp_path, {"weights": "b"})
    assert len(asked) == 9, "other weights are asked anew"


@pytest.mark.campaign
@pytest.mark.slow
def test_results_reach_the_record_of_a_run_and_mlflow(
    tiny: Path, task_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that learned bytes; its record then answers `metric: {name: eval/choices/acc}`."""
    from hymba_lab.commands.train import main as train
    from hymba_lab.runs.tracking import Store, default_uri

    corpus = tmp_path / "text.txt"
    corpus.write_text("once upon a time there were numbers\n\n" * 400)
    text = tiny.read_text().replace(
        "recall: {name: mqar, rows: 4, vocab: 16, n_pairs: [1, 2], n_val: 8}",
        f"text: {{name: files, rows: 4, paths: [{corpus}], tokenizer: bytes, n_val: 4}}",
    )
    tiny.write_text(text)
    train([str(tiny), "--root", str(tmp_path)])
    [run] = (tmp_path / "runs").iterdir()
    suite = ["--suite", str(task_files), "--limit", "3", "--root", str(tmp_path)]
    assert command.main([str(run), *suite]) == 0
    record = json.loads((run / "result.json").read_text())
    accuracy = record["metrics"]["eval/choices/acc"]
    assert 0 <= accuracy <= 1 and "eval/choices/acc_stderr" in record["metrics"]
    assert record["evaluation"]["choices"]["lm_eval"]
    assert (run / "evaluation/choices.json").is_file()
    found = Store(default_uri(tmp_path), tmp_path).client.get_run(record["mlflow"]["run_id"])
    assert found.data.metrics["eval/choices/acc"] == accuracy
    assert '"n_shot"' in found.data.tags["hymba_lab.eval.choices"]
    assert "choices" in capsys.readouterr().out


def test_the_function_returns_the_table_of_what_it_writes(
    folder: Path, task_files: Path, tmp_path: Path
) -> None:
    import hymba_lab as lab

    found = lab.evaluate(folder, str(task_files), limit=3, out=tmp_path / "out", root=tmp_path)
    assert found.not_logged is None
    for task, record in found.records.items():
        assert json.loads((tmp_path / "out" / f"{task}.json").read_text()) == record
    table = found.table.set_index(["task", "metric"])
    choices = found.records["choices"]["metrics"]["choices"]
    assert table.loc[("choices", "acc"), "value"] == choices["acc"]
    assert table.loc[("choices", "acc"), "stderr"] == choices["acc_stderr"]
    assert set(table["n"]) == {3}


# --- what cannot be


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder


BROKEN: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "no such suite": (lambda p: ["--suite", "papers"], r"neither a suite \(paper, recall, quick\)"),
    "an empty folder": (lambda p: ["--suite", str(write(p / "t", "", "x.txt"))], "no task files"),
    "two tasks of one name": (
        lambda p: ["--suite", str(write(write(p / "t", "task: a\n"), "task: a\n", "b.yaml"))],
        "several files call themselves a",
    ),
    "code": (
        lambda p: ["--suite", str(write(p / "t", "task: a\nprocess_docs: !function x.y\n"))],
        r"mine.yaml:2: process_docs: !function x.y\n.*--run-code",
    ),
    "code from elsewhere": (
        lambda p: ["--suite", str(write(p / "t", "task: a\ninclude: ../../base.yaml\n"))],
        "outside of the folder",
    ),
    "a file that is no YAML": (
        lambda p: ["--suite", str(write(p / "t", "task: a\n b: [\n"))],
        "mine.yaml: not a task file",
    ),
    "code in a file of another name": (
        lambda p: ["--suite", str(write(write(p / "t", "x: !function x.y\n", "_base"),
                                        "task: a\ninclude: _base\n"))],
        r"_base:1: x: !function x.y\n.*--run-code",
    ),
    "code of two files": (
        lambda p: ["--suite", str(write(p / "t", "task: a\ninclude: [\n  ../../evil.yaml]\n"))],
        "mine.yaml:2: .*outside of the folder",
    ),
    "code spelled otherwise": (
        lambda p: ["--suite", str(write(p / "t", "task: a\nprocess_docs: !f%75nction x.y\n"))],
        r"(?s)mine\.yaml:2: .*--run-code",
    ),
    "code of YAML": (
        lambda p: ["--suite", str(write(p / "t", "task: a\nx: !!python/name:os.system\n"))],
        r"(?s)mine\.yaml:2: .*--run-code",
    ),
    "data that are nowhere": (
        lambda p: ["--suite", str(write(p / "t", "task: a\ndataset_path: nobody/nothing\n"
                                        "output_type: loglikelihood\ntest_split: test\n"))],
        r"a: .*nobody/nothing.*\n.*hymba-lab evaluate --suite .*--download",
    ),
    "a shipped suite offline": (lambda p: ["--suite", "recall"], r"(?s)swde: .*fda: .*--download"),
    "no question": (lambda p: ["--limit", "0"], "--limit 0: give at least one"),
    "negative shots": (lambda p: ["--n-shot", "-1"], "--n-shot -1"),
    "no text at once": (lambda p: ["--batch-size", "0"], "--batch-size 0"),
    "texts of one token": (lambda p: ["--max-length", "1"], "--max-length 1: give from 2 to 128"),
    "texts beyond the positions": (lambda p: ["--max-length", "129"], "give from 2 to 128 tokens"),
    "a device that is none": (lambda p: ["--device", "foo"], "no such device"),
    "an answer beyond the positions": (
        lambda p: ["--suite", "TASKS", "--max-length", "6"],
        "asks for 6 new tokens, the longest text has 6",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_an_evaluation_that_cannot_run(
    case: str, folder: Path, task_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    change, message = BROKEN[case]
    given = [word.replace("TASKS", str(task_files)) for word in change(tmp_path)]
    with pytest.raises(UserError, match=message):
        command.main([str(folder), "--out", str(tmp_path / "out"), *given])
    assert not list((tmp_path / "out").glob("*.json"))


def test_no_thread_is_refused_by_the_command_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main([str(folder), "--threads", "0"])
    assert ended.value.code == 2
    assert "--threads: '0' is no whole number from 1" in capsys.readouterr().err


MODELS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no folder": (lambda p: p / "nowhere", "no such file"),
    "no tokenizer": (lambda p: _without(p, "tokenizer.json"), "no tokenizer.json"),
    "a broken tokenizer": (lambda p: _with(p, "tokenizer.json", "{}"), "not a tokenizer"),
    "another model": (
        lambda p: _with(p, "config.json", '{"model_type": "llama"}'),
        "model_type is 'llama'",
    ),
    "an adapter": (
        lambda p: _without(_with(p, "adapter_config.json", "{}"), "config.json"),
        "an adapter without its base model",
    ),
    "a lab folder without its architecture": (
        lambda p: _with(p, "config.json", '{"model_type": "hymba_lab", "vocab_size": 5}'),
        "no `lab`",
    ),
}


def _with(folder: Path, name: str, text: str) -> Path:
    place = folder if (folder / "model.safetensors").exists() else tiny_folder(folder / "m")
    (place / name).write_text(text)
    return place


def _without(folder: Path, name: str) -> Path:
    place = folder if (folder / "model.safetensors").exists() else tiny_folder(folder / "m")
    (place / name).unlink()
    return place


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_cannot_be_evaluated(case: str, task_files: Path, tmp_path: Path) -> None:
    make, message = MODELS[case]
    with pytest.raises(UserError, match=message):
        command.main([str(make(tmp_path)), "--suite", str(task_files)])


def test_no_model_and_nothing_to_fetch() -> None:
    with pytest.raises(UserError, match="no model is given"):
        command.main([])


def test_a_template_reaches_nothing_but_the_question(
    folder: Path, task_files: Path, tmp_path: Path
) -> None:
    """Templates stand in task files: what they could reach of Python is closed to them."""
    text = (task_files / "choices.yaml").read_text().replace("choices\n", "reaching\n", 1)
    reach = "{{ q.__class__.__mro__[1].__subclasses__() }}"
    place = write(tmp_path / "t", text.replace("{{q}}", reach))
    with pytest.raises(Exception, match=r"unsafe|__class__"):
        run_suite(harness(folder), suite_of(str(place)), tmp_path / "out", {})


@pytest.mark.campaign
@pytest.mark.slow
def test_the_release_s_own_command(
    folder: Path, task_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hymba_lab.commands.lm_eval import main

    arguments = (
        f"--model hf --model_args pretrained={folder},dtype=bfloat16,trust_remote_code=True "
        f"--tasks choices --include_path {task_files} --num_fewshot 1 --batch_size 1 "
        f"--output_path {tmp_path / 'results'} --log_samples --device cpu"
    )
    assert main(arguments.split()) == 0
    [results] = (tmp_path / "results").rglob("results_*.json")
    assert json.loads(results.read_text())["results"]["choices"]["acc,none"] >= 0
    assert list((tmp_path / "results").rglob("samples_choices_*.jsonl"))


# --- chat templates


def chat_folder(folder: Path, place: Path) -> Path:
    """The tiny checkpoint with a template whose answers begin behind a space."""
    import shutil

    shutil.copytree(folder, place)
    text = "{% for m in messages %}{{ m.role[0] }}: {{ m.content }}\n{% endfor %}"
    (place / "chat_template.jinja").write_text(text + "{% if add_generation_prompt %}a:{% endif %}")
    return place


def test_questions_by_the_template_are_what_a_user_says(
    folder: Path, task_files: Path, tmp_path: Path
) -> None:
    """The scores are those of the rendered text with the choice behind; what is asked is told."""
    own = chat_folder(folder, tmp_path / "chat")
    seen: list[tuple[str, str]] = []
    real = HarnessModel._encode_pair

    def encode(self: Any, context: str, continuation: str) -> Any:
        seen.append((context, continuation))
        return real(self, context, continuation)

    argv = [str(own), "--suite", str(task_files), "--limit", "2", "--root", str(tmp_path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HarnessModel, "_encode_pair", encode)
        assert command.main([*argv, "--out", str(tmp_path / "a"), "--apply-chat-template"]) == 0
    assert ("u: 0 plus 0 is\na: ", "0") in seen
    asked = json.loads((tmp_path / "a" / "choices.json").read_text())["asked"]
    assert asked["chat"]["multiturn"] is False
    seen.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HarnessModel, "_encode_pair", encode)
        more = ["--apply-chat-template", "--fewshot-as-multiturn", "--n-shot", "1"]
        assert (
            command.main([*argv, "--out", str(tmp_path / "b"), *more, "--template", "plain"]) == 0
        )
    turns = [context for context, _ in seen if context.count("User:") == 2]
    assert turns
    assert all(context.count("Assistant:") == 2 for context in turns)
    told = json.loads((tmp_path / "b" / "choices.json").read_text())["asked"]["chat"]
    assert told["multiturn"] is True
    assert told["template"] != asked["chat"]["template"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--template", "plain"], "--template goes with --apply-chat-template"),
        (["--fewshot-as-multiturn"], "--fewshot-as-multiturn goes with --apply-chat-template"),
        (["--apply-chat-template", "--template", "no.jinja"], "cannot be read"),
    ],
)
def test_templates_that_cannot_be(
    options: list[str], said: str, folder: Path, task_files: Path, tmp_path: Path
) -> None:
    argv = [str(folder), "--suite", str(task_files), "--out", str(tmp_path / "out"), *options]
    with pytest.raises(UserError, match=said):
        command.main(argv)
    assert not (tmp_path / "out").exists()


def test_data_lie_beside_the_task_file(folder: Path, task_files: Path, tmp_path: Path) -> None:
    place = tmp_path / "mine"
    place.mkdir()
    (place / "q.jsonl").write_text((task_files / "q.jsonl").read_text())
    text = (task_files / "choices.yaml").read_text().replace(f"{task_files}/q.jsonl", "q.jsonl")
    (place / "choices.yaml").write_text(text)
    records = [
        run_suite(harness(folder), suite_of(str(where), limit=3), tmp_path / where.name, {})
        for where in (place, task_files)
    ]
    assert records[0]["choices"]["metrics"] == records[1]["choices"]["metrics"]


def test_every_task_of_a_group_has_its_own_number_of_questions(tmp_path: Path) -> None:
    record = {
        "n_shot": 0, "n_questions": {"law": 10, "physics": 90},
        "metrics": {"law": {"acc": 0.5}, "physics": {"acc": 0.4}, "all": {"acc": 0.41}},
    }  # fmt: skip
    table = Evaluation({"all": record}, tmp_path, None).table
    assert dict(zip(table["task"], table["n"], strict=True)) == {
        "law": 10, "physics": 90, "all": 100,
    }  # fmt: skip


def test_a_changed_task_is_asked_anew_and_what_was_asked_before_is_kept(
    folder: Path, task_files: Path, tmp_path: Path
) -> None:
    """A corrected prompt was answered by the old number; a short try replaced the whole one."""
    place, out = tmp_path / "mine", tmp_path / "out"
    place.mkdir()
    text = (task_files / "choices.yaml").read_text()
    (place / "choices.yaml").write_text(text)
    model = harness(folder)

    def asked(limit: int | None, *, samples: bool = False) -> dict[str, Any]:
        suite = suite_of(str(place), limit=limit)
        return run_suite(model, suite, out, {}, keep_samples=samples)["choices"]

    whole = asked(None)
    short = asked(2)
    assert short["n_questions"] != whole["n_questions"]
    assert asked(None) == whole, "read back"
    assert json.loads((out / "choices.json").read_text()) == short
    assert not list(out.glob("*.samples.jsonl"))
    again = asked(2, samples=True)
    assert again["metrics"] == short["metrics"]
    assert len((out / "choices.samples.jsonl").read_text().splitlines()) == 2
    (place / "choices.yaml").write_text(text.replace("{{q}}", "Say: {{q}}"))
    changed = asked(2)
    assert changed["asked"]["contents"] != short["asked"]["contents"]
    (place / "choices.yaml").write_text(text)
    assert asked(2) == again and asked(2, samples=True) == again
    assert len(list(out.glob("choices.*.json"))) == 2


def test_the_error_of_a_filtered_metric_stands_beside_it(tmp_path: Path) -> None:
    results = {
        "results": {"gsm": {"exact_match,strict-match": 0.5,
                            "exact_match_stderr,strict-match": 0.1, "acc,none": 0.25,
                            "acc_stderr,none": 0.2}},
        "samples": {},
    }  # fmt: skip
    found = evaluation._metrics(results)
    assert found["gsm"] == {
        "exact_match-strict-match": 0.5, "exact_match-strict-match_stderr": 0.1,
        "acc": 0.25, "acc_stderr": 0.2,
    }  # fmt: skip
    record = {"n_shot": 0, "n_questions": {"gsm": 10}, "metrics": found}
    table = Evaluation({"gsm": record}, tmp_path, None).table
    assert dict(zip(table["metric"], table["stderr"], strict=True)) == {
        "exact_match-strict-match": 0.1, "acc": 0.2,
    }  # fmt: skip


def test_an_answer_that_is_begun_is_gone_on_with(folder: Path) -> None:
    """What a task puts at the head of the answer stood in a turn that was over."""
    model = harness(folder)
    model.template = Template(PLAIN, "plain", specials={}, stops=["\nUser:"])
    turns = [
        {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "The answer is"},
    ]  # fmt: skip
    said = model.apply_chat_template(turns, add_generation_prompt=False)
    assert said == "User: 2+2?\nAssistant: The answer is"


def test_a_run_may_be_named_from_inside(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(train(tiny, root=tmp_path).folder)
    asked = {"metrics": {"law": {"acc": 0.5}}, "asked": {}, "guess": {}}
    found = add_to_run(Path(), {"law": asked})
    assert found is not None and found["metrics"]["eval/law/acc"] == 0.5
