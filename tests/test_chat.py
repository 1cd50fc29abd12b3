"""Chat: streaming, history that fits, templates in a sandbox, prompts in batches."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hf_folders import TEMPLATE, tiny_folder

from hymba_lab.commands import chat
from hymba_lab.commands.chat import main
from hymba_lab.dialogue.conversation import Conversation, pieces
from hymba_lab.dialogue.template import template_of
from hymba_lab.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


class Letters:
    """One id per character; 0 ends a text."""

    eos = [0]  # noqa: RUF012
    bos: int | None = None

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")


def talk(folder: Path, lines: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert main([str(folder), "--max-new-tokens", "12", *options]) == 0


Said = pytest.CaptureFixture[str]


def test_turns_are_answered_saved_and_forgotten(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    lines = f"Hi\n/save {tmp_path}/a.jsonl\nHi\n/reset\nHi\n/save {tmp_path}/a.jsonl\n/what\n"
    talk(folder, lines, monkeypatch, "--system", "Be kind")
    out = capsys.readouterr().out
    [saved] = (tmp_path / "a.jsonl").read_text().splitlines()
    messages = json.loads(saved)["messages"]
    assert [m["role"] for m in messages] == ["system", "user", "assistant"]
    assert out.count(messages[2]["content"]) == 2, "after /reset the same answer again"
    assert "is there already" in out and "(/what is no command" in out


def test_the_answer_is_what_transformers_makes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    """Template of the checkpoint, greedy: the pipeline's words, piece by piece."""
    from hf_folders import load
    from transformers import AutoTokenizer, pipeline

    talk(folder, "Hi there\n", monkeypatch)
    ask = pipeline(
        "text-generation", model=load(folder), tokenizer=AutoTokenizer.from_pretrained(folder)
    )
    chat = [{"role": "user", "content": "Hi there"}]
    said = ask(chat, max_new_tokens=12, do_sample=False)[0]["generated_text"][-1]["content"]
    assert capsys.readouterr().out == said + "\n"


def test_a_temperature_draws_and_a_seed_repeats(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    answers = []
    for seed in ("1", "1", "2"):
        talk(folder, "Hi\n", monkeypatch, "--temperature", "1.5", "--seed", seed)
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] != answers[2]


def test_whole_turns_are_left_out_and_it_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    """The positions end at 128: two turns of 60 characters do not fit beside an answer."""
    talk(folder, f"{'a' * 60}\n{'b' * 60}\n{'c' * 200}\n/save\n", monkeypatch)
    out = capsys.readouterr().out
    assert "(the oldest 1 turn(s) no longer fit" in out
    assert "error: the message has 202 tokens with its template, 116 fit" in out


def test_the_history_keeps_the_system_text_and_the_last_turns(folder: Path) -> None:
    template, codec = template_of(folder, None), Letters()
    conversation = Conversation("S")
    for word in ("one", "two", "three"):
        conversation.say("user", word)
        conversation.say("assistant", word.upper())
    conversation.turns.pop()
    whole = conversation.prompt(template, codec, 1000)
    assert codec.decode(whole.ids) == "S|<one>ONE</s><two>TWO</s><three>"
    assert whole.n_left_out == 0
    cut = conversation.prompt(template, codec, len(whole.ids) - 1)
    assert codec.decode(cut.ids) == "S|<two>TWO</s><three>" and cut.n_left_out == 1
    assert codec.decode(conversation.prompt(template, codec, 9).ids) == "S|<three>"


def test_pieces_hold_back_half_characters_and_half_stops() -> None:
    ids, kept = list("Zoë\nUs\nUser: more".encode()), []
    found = list(pieces(iter(ids), Letters(), ["\nUser:"], kept.append))
    assert "".join(found) == "Zoë\nUs" == kept[0]
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(found)
    assert all("\nUser" not in piece for piece in found)
    assert list(pieces(iter([65, 0, 66]), Letters(), [], kept.append)) == ["A"]


def test_several_prompts_in_one_batch_answer_as_each_alone(
    folder: Path, tmp_path: Path, capsys: Said
) -> None:
    texts = ["Hi", "Once upon a time", "say 7", "x"]
    (tmp_path / "p.txt").write_text("\n".join(texts) + "\n\n")
    asked = [str(folder), "--max-new-tokens", "9", "--prompts"]
    assert main([*asked, str(tmp_path / "p.txt")]) == 0
    together = capsys.readouterr().out
    alone = ""
    for text in texts:
        (tmp_path / "one.jsonl").write_text(json.dumps({"prompt": text}))
        assert main([*asked, str(tmp_path / "one.jsonl"), "--batch-size", "1"]) == 0
        alone += capsys.readouterr().out
    assert together == alone and together.startswith("> Hi\n")


def test_a_space_before_the_answer_is_the_template_s(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was kept with the answer, and stood there twice in all that came after."""

    def said(ids: Any, codec: Any, stops: list[str], whole: Any) -> Iterator[str]:
        yield " Hello"
        whole(" Hello")

    monkeypatch.setattr("hymba_lab.dialogue.conversation.pieces", said)
    talk(folder, f"Hi\n/save {tmp_path}/a.jsonl\n", monkeypatch, "--template", "plain")
    messages = json.loads((tmp_path / "a.jsonl").read_text())["messages"]
    assert messages[-1] == {"role": "assistant", "content": "Hello"}


def test_prompts_are_answered_in_order_while_others_wait(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    """All was printed behind the last one; and U+2028 in a JSON text ended its line."""
    monkeypatch.setattr(chat, "_SORTED", 1)
    prompts = ["a\u2028b", "c d e f", "g", "\ud83d h"]
    lines = [json.dumps({"prompt": one}, ensure_ascii=one.isascii()) for one in prompts[:3]]
    lines.append(json.dumps({"prompt": prompts[3]}))
    (tmp_path / "p.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    steps, printed = chat._steps, []

    def watched(speaker: Any, ids: list[list[int]]) -> Any:
        printed.append(capsys.readouterr().out)
        return steps(speaker, ids)

    monkeypatch.setattr(chat, "_steps", watched)
    given = [str(folder), "--prompts", str(tmp_path / "p.jsonl"), "--batch-size", "2"]
    assert main([*given, "--max-new-tokens", "3", "--template", "plain"]) == 0
    first, second = printed
    assert first == "" and second.startswith("> a\u2028b\n") and "> c d e f\n" in second
    assert "> ? h\n" in capsys.readouterr().out


def test_a_run_of_the_lab_speaks_plainly(folder: Path, tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "p.jsonl").write_text(
        json.dumps({"messages": [{"role": "user", "content": "Hi"}]}) + "\n"
    )
    given = [str(folder), "--template", "plain", "--prompts", str(tmp_path / "p.jsonl")]
    assert main([*given, "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("> Hi\n")
    text = template_of(folder, "plain").render([{"role": "user", "content": "Hi"}])
    assert text == "User: Hi\nAssistant:"


def settings(place: Path, **values: Any) -> None:
    (place / "chat_template.jinja").unlink(missing_ok=True)
    path = place / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_template_in_the_tokenizer_s_settings(tmp_path: Path) -> None:
    place = tiny_folder(tmp_path)
    for value in (TEMPLATE, [{"name": "tool", "template": "x"},
                             {"name": "default", "template": TEMPLATE}]):  # fmt: skip
        settings(place, chat_template=value)
        assert template_of(place, None).render([{"role": "user", "content": "a"}]) == "<a>"


def put(place: Path, name: str, text: str) -> str:
    (place / name).write_text(text)
    return str(place / name)


WRONG: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "no template": (lambda p: settings(p, chat_template=None) or [], "no chat template"),
    "a template that is none": (
        lambda p: ["--template", put(p, "t.jinja", "{% for x %}")],
        "t.jinja: not a chat template",
    ),
    "a template that is not there": (lambda p: ["--template", "nowhere.jinja"], "cannot be read"),
    "a template that wants more": (
        lambda p: ["--template", put(p, "t.jinja", "{{ messages[3].content.x.y }}")],
        "does not take this conversation",
    ),
    "a template that refuses": (
        lambda p: ["--template", put(p, "t.jinja", "{{ raise_exception('only tools') }}")],
        "does not take this conversation (only tools)",
    ),
    "a template that reaches out": (
        lambda p: ["--template", put(p, "t.jinja", "{{ messages.__class__.__mro__ }}")],
        "does not take this conversation",
    ),
    "broken settings": (
        lambda p: [put(p, "tokenizer_config.json", "{")][:0],
        "tokenizer_config.json: not a JSON file",
    ),
    "no tokenizer": (lambda p: (p / "tokenizer.json").unlink() or [], "no tokenizer.json"),
    "an answer beyond the positions": (
        lambda p: ["--max-new-tokens", "128"],
        "give from 1 to 127; the model's longest text has 128",
    ),
    "no answer": (lambda p: ["--max-new-tokens", "0"], "give from 1 to 127"),
    "no prompts": (lambda p: ["--prompts", put(p, "e.txt", "\n")], "no prompt; write one a line"),
    "prompts that are not there": (lambda p: ["--prompts", "nowhere"], "cannot be read"),
    "prompts that are no JSON": (
        lambda p: ["--prompts", put(p, "e.jsonl", "{")],
        "e.jsonl:1: not JSON",
    ),
    "an answer for a prompt": (
        lambda p: ["--prompts", put(p, "e.jsonl", '{"messages": [{"role": "assistant", '
                                                   '"content": "a"}]}')],
        "e.jsonl:1: write",
    ),
    "a prompt too long": (
        lambda p: ["--prompts", put(p, "e.txt", "a" * 300)],
        "the message has 302 tokens",
    ),
    "no prompt at once": (lambda p: ["--batch-size", "0"], "--batch-size 0"),
    "a device that is none": (lambda p: ["--device", "foo"], "no such device"),
    "a temperature below zero": (
        lambda p: ["--temperature", "-1", "--prompts", put(p, "e.txt", "a")],
        "temperature = -1.0",
    ),
}  # fmt: skip


OF_ONE_LINE = (
    "a template that wants more", "a template that refuses", "a template that reaches out",
)  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_conversation_that_cannot_be(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    """Before the first line as an error; a line that the template refuses, within the talk."""
    make, message = WRONG[case]
    given = make(tiny_folder(tmp_path))
    monkeypatch.setattr("sys.stdin", io.StringIO("Hi\n"))
    arguments = [str(tmp_path), "--max-new-tokens", "5", *given]
    if case in OF_ONE_LINE:
        assert main(arguments) == 0
        assert message in capsys.readouterr().out
        return
    with pytest.raises(UserError) as error:
        main(arguments)
    assert message in str(error.value)


def test_what_stands_before_the_first_turn_is_read(folder: Path) -> None:
    """A system text of a file of prompts, or of `--system` beside one, was dropped."""
    template, codec = template_of(folder, None), Letters()
    talk, alone = Conversation(), Conversation("S")
    talk.turns = [{"role": "system", "content": "S"}]
    for one in (talk, alone):
        one.say("user", "one")
    assert talk.prompt(template, codec, 1000) == alone.prompt(template, codec, 1000)
    assert codec.decode(talk.prompt(template, codec, 1000).ids) == "S|<one>"
    talk.say("assistant", "ONE")
    talk.say("user", "two")
    cut = talk.prompt(template, codec, 8)
    assert codec.decode(cut.ids) == "S|<two>" and cut.n_left_out == 1
