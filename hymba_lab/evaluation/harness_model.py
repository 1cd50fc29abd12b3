"""A model of the lab as the harness asks for one; knows nothing of transformers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from hymba_lab.checkpoints.codec import Codec
from hymba_lab.dialogue.template import Message, Template
from hymba_lab.errors import UserError
from hymba_lab.evaluation.scoring import Request, Score, score
from hymba_lab.model import LanguageModel

MAX_NEW_TOKENS = 256  # where a task names no limit, as in the harness


class HarnessModel(TemplateLM):
    """Answers the harness's requests in batches of `n_rows`.

    With `bos` texts begin as the tokenizer begins them, which is the harness's way now;
    without, which was its way for causal models, they begin with their first word. An empty context
    is the token that begins a text. With a `template` questions are what a user says, and it alone
    writes what stands before them. Attributes beside the harness's own: `n_cut`, how many texts
    were longer than `max_length` and lost their beginning.
    """

    def __init__(
        self,
        model: LanguageModel,
        codec: Codec,
        *,
        n_rows: int,
        max_length: int,
        bos: bool = True,
        template: Template | None = None,
        begin: Callable[[int], None] = lambda n: None,
        done: Callable[[int], None] = lambda n: None,
    ) -> None:
        """`max_length` [tokens] is the longest text.

        `begin` is told how many requests come, `done` how many a batch has answered.
        """
        super().__init__()
        self.model, self.codec, self.begin, self.done = model, codec, begin, done
        self.n_rows, self.max_length, self.bos, self.n_cut = n_rows, max_length, bos, 0
        self.template = template

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return self.codec.eos[0] if self.codec.eos else self.prefix_token_id

    @property
    def prefix_token_id(self) -> int:
        """The id that stands before a text without context."""
        if self.codec.bos is not None:
            return self.codec.bos
        if self.codec.eos:
            return self.codec.eos[0]
        raise UserError(
            "the checkpoint names no bos_token_id and no eos_token_id, and a task scores texts "
            "without a context; add one to its config.json."
        )

    @property
    def tokenizer_name(self) -> str:
        """Part of the name under which the harness would keep requests; it keeps none here."""
        return ""

    def apply_chat_template(
        self, chat_history: list[Message], add_generation_prompt: bool = True
    ) -> str:
        """Return a conversation as text, up to where the answer begins.

        White space with which answers begin stands at its end: the harness moves it to the choices.
        Without `add_generation_prompt` the last turn is an answer's beginning, to be gone on with.
        """
        assert self.template is not None, "the harness was told of a template"
        text = self.template.render(chat_history, prompt=add_generation_prompt)
        if add_generation_prompt:
            return text + self.template.lead
        begun = chat_history[-1]["content"].strip()
        return text[: text.rindex(begun) + len(begun)] if begun in text else text

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Return the ids of a text."""
        own = self.bos and self.template is None
        wanted = own if add_special_tokens is None else add_special_tokens
        return self.codec.encode(string, special=wanted)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[Score]:
        asked = [Request(context, continuation) for _, context, continuation in requests]
        self.begin(len(asked))
        self.n_cut += sum(len(r.context) + len(r.continuation) > self.max_length + 1 for r in asked)
        return score(
            self.model, asked, n_rows=self.n_rows, max_length=self.max_length, done=self.done
        )

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-likelihood of whole texts, window by window where they are long."""
        self.begin(len(requests))
        asked: list[Request] = []
        sizes = []
        for request in requests:
            tokens = self.tok_encode(request.args[0], add_special_tokens=self.bos)
            windows = get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, 1)
            parts = [Request(*make_disjoint_window(window)) for window in windows]
            asked += parts
            sizes.append(len(parts))
        answers = iter(score(self.model, asked, n_rows=self.n_rows, max_length=self.max_length))
        totals = []
        for size in sizes:
            totals.append(sum(next(answers).log_likelihood for _ in range(size)))
            self.done(1)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return continuations, cut at the first of a request's stop texts."""
        self.begin(len(requests))
        made: dict[int, str] = {}
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(i)
        for numbers in groups.values():
            limits = normalize_gen_kwargs(requests[numbers[0]].args[1], MAX_NEW_TOKENS)
            prompts = {i: self._prompt(requests[i].args[0], limits) for i in numbers}
            order = sorted(numbers, key=lambda i: -len(prompts[i]))
            for first in range(0, len(order), self.n_rows):
                rows = order[first : first + self.n_rows]
                texts = self._continued([prompts[i] for i in rows], limits)
                made |= dict(zip(rows, texts, strict=True))
                self.done(len(rows))
        return [made[i] for i in range(len(requests))]

    def _prompt(self, text: str, limits: Any) -> list[int]:
        """Return the ids of a prompt, of which the end is kept where it is too long."""
        room = self.max_length - limits["max_gen_toks"]
        if room < 1:
            raise UserError(
                f"a task asks for {limits['max_gen_toks']} new tokens, the longest text has "
                f"{self.max_length}; give a larger --max-length, if the model's positions allow it."
            )
        lead = self.template.lead if self.template else ""
        ids = self.tok_encode(text.removesuffix(lead)) or [self.prefix_token_id]
        self.n_cut += len(ids) > room
        return ids[-room:]

    def _continued(self, prompts: list[list[int]], limits: Any) -> list[str]:
        if limits["do_sample"] and (unknown := {"top_k", "top_p"} & limits.keys()):
            raise UserError(f"a task samples with {', '.join(sorted(unknown))}: not supported.")
        longest = max(map(len, prompts))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in prompts])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in prompts])
        device = self.model.embedding.weight.device
        stops = [stop for stop in limits["until"] if stop]
        stops += self.template.stops if self.template is not None else []
        texts = [""] * len(prompts)
        rows: list[list[int]] = [[] for _ in prompts]
        steps = self.model.stream(
            ids.to(device),
            mask.to(device),
            limits["max_gen_toks"],
            limits["temperature"] if limits["do_sample"] else 0.0,
            eos=self.codec.eos,
            seed=0,
        )
        open_rows = set(range(len(prompts)))
        for step in steps:
            for b, token in enumerate(step.tolist()):
                if b not in open_rows:
                    continue
                if token in self.codec.eos:
                    open_rows.discard(b)
                    continue
                rows[b].append(token)
                texts[b] = self.codec.decode(rows[b])
                if any(stop in texts[b] for stop in stops):
                    open_rows.discard(b)
            if not open_rows:
                break
        return [_until(text, stops) for text in texts]


def _until(text: str, stops: list[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text
