"""Chat templates: from the checkpoint's own files or the user's, rendered in a sandbox."""

import json
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hymba_lab.atomic import json_of, text_of
from hymba_lab.errors import CheckpointError, UserError

Message = dict[str, str]

PLAIN = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ m.content }}\n\n"
    "{% elif m.role == 'user' %}User: {{ m.content }}\n"
    "{% else %}Assistant: {{ m.content }}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For models without a template: names and colons, an answer ends where the user speaks again."""


class _Generation(Extension):
    """`{% generation %}` marks what assistants say, for training; here it is only its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja reads a set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Template:
    """Messages to the text that a model continues with its answer."""

    def __init__(
        self, source: str, where: str, *, specials: dict[str, str], stops: list[str]
    ) -> None:
        """`specials` are bos_token and eos_token as text; an answer ends before one of `stops`."""
        self.source, self.where, self.specials, self.stops = source, where, specials, stops
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise CheckpointError(f"{where}: not a chat template ({error}).") from None

    @cached_property
    def lead(self) -> str:
        """White space that an answer begins with, behind the prompt."""
        asked: list[Message] = [{"role": "user", "content": "?"}]
        prompt = self.render(asked)
        whole = self.render([*asked, {"role": "assistant", "content": "!"}], prompt=False)
        before = whole[len(prompt) :].split("!")[0] if whole.startswith(prompt) else ""
        return before if before.isspace() else ""

    def render(self, messages: Sequence[Message], *, prompt: bool = True) -> str:
        """Return the prompt for the next answer, or the conversation without one.

        Raises `UserError` where the template refuses.
        """
        try:
            return self._template.render(
                messages=list(messages), add_generation_prompt=prompt, **self.specials
            )
        except (TemplateError, TypeError, LookupError) as error:
            raise UserError(
                f"{self.where}: the template does not take this conversation ({error}); try "
                "--template plain, or another FILE.jinja."
            ) from None


def template_of(folder: Path, given: str | None) -> Template:
    """Return the template asked for (`plain` or a file), or the checkpoint's own.

    Raises `CheckpointError` where there is none.
    """
    settings = _json(folder / "tokenizer_config.json")
    specials = {
        name: _text(settings.get(name) or _json(folder / "special_tokens_map.json").get(name))
        for name in ("bos_token", "eos_token")
    }
    if given == "plain":
        return Template(PLAIN, "plain", specials=specials, stops=["\nUser:"])
    if given is not None:
        return Template(_file(Path(given)), given, specials=specials, stops=[])
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        return Template(_file(beside), str(beside), specials=specials, stops=[])
    source = settings.get("chat_template")
    if isinstance(source, list):  # several by name
        by_name = {entry.get("name"): entry.get("template") for entry in source}
        source = by_name.get("default") or next(iter(by_name.values()), None)
    if not isinstance(source, str):
        raise CheckpointError(
            f"{folder}: no chat template (chat_template.jinja, or chat_template in "
            "tokenizer_config.json); give --template FILE.jinja, or --template plain."
        )
    return Template(source, f"{folder / 'tokenizer_config.json'}", specials=specials, stops=[])


def _file(path: Path) -> str:
    try:
        return text_of(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--template {path}: cannot be read ({error}); give a FILE.jinja, or plain."
        ) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json_of(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a JSON file ({error}).") from None
    return content if isinstance(content, dict) else {}


def _text(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
