"""Conversations as text, with the places of what the assistant says."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError

from hymba_lab.atomic import text_of
from hymba_lab.errors import ConfigError, DataError, UserError
from hymba_lab.finetune.examples import Message

PLAIN = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ m.content }}\n\n"
    "{% elif m.role == 'assistant' %}Assistant:"
    "{% generation %} {{ m.content }}{{ eos_token }}{% endgeneration %}\n"
    "{% else %}User: {{ m.content }}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""That of `hymba-lab chat --template plain`, with an end after each answer."""

Span = tuple[int, int]
_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Rendered(NamedTuple):
    """A conversation as text; `answers` are the places [start, end) of the assistant's words."""

    text: str
    answers: list[Span]


class TrainedTemplate:
    """A chat template as transformers renders it.

    Answers are where `{% generation %}` marks them. A template without the mark has to keep the
    beginning of a conversation as it was: an answer is then what it adds to the prompt.
    """

    def __init__(self, tokenizer: Any, source: str, where: str) -> None:
        self._tokenizer, self.source, self.where = tokenizer, source, where
        self._marked = _MARK.search(source) is not None

    def prompt(self, messages: Sequence[Message], at: str) -> str:
        """Return the text that the next answer is asked with."""
        return self._render(messages, at, prompt=True)[0]

    def whole(self, messages: Sequence[Message], at: str) -> str:
        """Return the text of a conversation."""
        return self._render(messages, at)[0]

    def rendered(self, messages: Sequence[Message], at: str, n_given: int = 0) -> Rendered:
        """Return text and answers, but for those in the first `n_given` turns."""
        text, marks = self._render(messages, at)
        if self._marked:
            first = sum(message["role"] == "assistant" for message in messages[:n_given])
            return Rendered(text, marks[first:])
        spans = []
        for i, message in enumerate(messages):
            if message["role"] == "assistant" and i >= n_given:
                before, after = self.prompt(messages[:i], at), self.whole(messages[: i + 1], at)
                if not (after.startswith(before) and text.startswith(after)):
                    raise UserError(
                        f"{self.where}: where an answer stands is not known: the template changes "
                        f"turns that went before ({at}); mark what the assistant says with "
                        "{% generation %} ... {% endgeneration %}."
                    )
                spans.append((len(before), len(after)))
        return Rendered(text, spans)

    def _render(
        self, messages: Sequence[Message], at: str, prompt: bool = False
    ) -> tuple[str, list[Span]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, marks = render_jinja_template(
                conversations=[list(messages)],
                chat_template=self.source,
                return_assistant_tokens_mask=self._marked,
                add_generation_prompt=prompt,
                **self._tokenizer.special_tokens_map,
            )
        except (TemplateError, TypeError, LookupError, ValueError) as error:
            raise DataError(
                f"{at}: {self.where} does not take this conversation ({error})."
            ) from None
        return texts[0], [(start, end) for start, end in marks[0]] if self._marked else []


def template_for(tokenizer: Any, given: str | None, model: str) -> TrainedTemplate | None:
    """Return the template asked for (`plain`, a file), else the model's own, None without one.

    The tokenizer is given it, so that it is saved with the model.
    """
    source: Any
    if given == "plain":
        source, where = PLAIN, "template plain"
    elif given is not None:
        source, where = _file(Path(given)), given
    else:
        own = tokenizer.chat_template
        source = own.get("default") if isinstance(own, dict) else own
        where = f"the template of {model}"
    if not source:
        return None
    tokenizer.chat_template = source
    return TrainedTemplate(tokenizer, source, where)


def _file(path: Path) -> str:
    try:
        return text_of(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"template: {path}: cannot be read ({error}); give plain, or a FILE.jinja."
        ) from None
