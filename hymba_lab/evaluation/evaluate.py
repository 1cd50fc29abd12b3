"""A suite of tasks on a run or a checkpoint, from its folder to its results."""

import hashlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hymba_lab.config.start import RUN_WEIGHTS, file_digest, weights_digest
from hymba_lab.errors import UserError
from hymba_lab.evaluation.suites import Asked, Suite, suite_of

if TYPE_CHECKING:
    import pandas as pd

    from hymba_lab.evaluation.harness_model import HarnessModel

Record = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """The record of every task, the folder of the results, and why MLflow has not got them."""

    records: Mapping[str, Record]
    folder: Path
    not_logged: str | None

    @property
    def table(self) -> "pd.DataFrame":
        """A line per task and metric: task, n_shot, metric, value, stderr, n."""
        import pandas as pd

        lines = [
            {
                "task": task, "n_shot": record["n_shot"], "metric": name, "value": value,
                "stderr": values.get(f"{name}_stderr"),
                "n": record["n_questions"].get(task, sum(record["n_questions"].values())),
            }
            for record in self.records.values()
            for task, values in record["metrics"].items()
            for name, value in values.items()
            if "_stderr" not in name
        ]  # fmt: skip
        columns = ["task", "n_shot", "metric", "value", "stderr", "n"]
        return pd.DataFrame(lines, columns=columns)


class Silent:
    """Hears of the requests of the task under way, and of every task; shows nothing."""

    def begin(self, n: int) -> None:
        """Hear that `n` requests begin."""

    def done(self, n: int) -> None:
        """Hear that `n` were answered."""

    def told(self, one: Asked, record: Record, left: float | None) -> None:
        """Hear of a finished task, and of the seconds left."""


class Chat(NamedTuple):
    """How questions are put as what a user says."""

    template: str | None = None
    """plain, or a FILE.jinja; None = the model's own."""
    multiturn: bool = False
    """Examples before a question are turns of their own."""


def evaluate(
    model: str | Path,
    suite: str | Suite = "quick",
    *,
    limit: int | None = None,
    n_shot: int | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    dtype: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    out: Path | None = None,
    bos: bool = True,
    chat: Chat | None = None,
    download: bool = False,
    run_code: bool = False,
    keep_samples: bool = False,
    root: Path = Path(),
    tracking_uri: str | None = None,
    plugins: Sequence[Path] = (),
    begun: Callable[[Suite, Path], None] = lambda suite, out: None,
    shown: Silent | None = None,
) -> Evaluation:
    """Evaluate runs/<id> or a folder with config.json; what is done already is read back.

    Options are those of `hymba-lab evaluate`. Results go to `out`, into the run's record, and to
    MLflow as `eval/<task>/<metric>`. Raises `UserError` for a model, suite or option that cannot
    be, and for missing data unless `download`.
    """
    from hymba_lab.cost.throughput import set_threads

    suite = suite_of(suite, limit=limit, n_shot=n_shot) if isinstance(suite, str) else suite
    model = Path(model)
    out = out or _place(model, root)
    set_threads(threads)
    records, weights = measured(
        model, suite, out, batch_size=batch_size, max_length=max_length, dtype=dtype,
        device=device, bos=bos, chat=chat, download=download, run_code=run_code,
        keep_samples=keep_samples, plugins=plugins, begun=begun, shown=shown,
    )  # fmt: skip
    from hymba_lab.evaluation.record import add_to_run, log

    fault = log(
        records, name=model.resolve().name, weights=weights, root=root,
        tracking_uri=tracking_uri, run=add_to_run(model, records),
    )  # fmt: skip
    return Evaluation(records, out, fault)


def measured(
    model: Path,
    suite: Suite,
    out: Path,
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    dtype: str | None = None,
    device: str | None = None,
    bos: bool = True,
    chat: Chat | None = None,
    download: bool = False,
    run_code: bool = False,
    keep_samples: bool = False,
    plugins: Sequence[Path] = (),
    begun: Callable[[Suite, Path], None] = lambda suite, out: None,
    shown: Silent | None = None,
) -> tuple[dict[str, Record], str]:
    """Return the record of every task, kept in `out`, and the sha256 of the model's weights."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("evaluation needs the extra: pip install 'hymba-lab[evaluate]'.")
    os.environ.setdefault("TQDM_DISABLE", "1")  # read at import: the harness counts its own loops
    if not 1 <= batch_size <= 65536:
        raise UserError(f"--batch-size {batch_size}: give a number from 1 to 65536.")
    from hymba_lab.cost.throughput import device_of
    from hymba_lab.evaluation.run import run_suite

    shown = shown or Silent()
    harness, facts = _harness_model(
        model, device_of(device), batch_size, max_length, dtype, bos, chat, plugins, shown
    )
    begun(suite, out)
    records = run_suite(
        harness, suite, out, facts, download=download, run_code=run_code,
        keep_samples=keep_samples, told=shown.told,
    )  # fmt: skip
    return records, str(facts["weights"])


def _harness_model(
    folder: Path,
    device: Any,
    n_rows: int,
    max_length: int | None,
    dtype: str | None,
    bos: bool,
    chat: Chat | None,
    plugins: Sequence[Path],
    shown: Silent,
) -> tuple["HarnessModel", dict[str, Any]]:
    """Return the model as the harness asks for it, and what results depend on."""
    from hymba_lab.checkpoints.load import load, longest_text
    from hymba_lab.dialogue.template import template_of
    from hymba_lab.evaluation.harness_model import HarnessModel

    net, codec = load(folder, dtype, texts=True, plugins=plugins)
    assert codec is not None, "texts were asked for"
    length = max_length or longest_text(folder, net) or 2048
    if length < 2 or (net.max_tokens is not None and length > net.max_tokens):
        raise UserError(
            f"--max-length {length}: give from 2 to {net.max_tokens or 'any number of'} tokens."
        )
    template = None if chat is None else template_of(folder, chat.template)
    facts: dict[str, Any] = {
        "weights": weights_digest(folder),
        **_tokenizer_of(folder),
        "precision": str(net.embedding.weight.dtype).removeprefix("torch."),
        "max_length": length,
        "bos": bos,
    }
    if chat is not None and template is not None:
        told = hashlib.sha256(template.source.encode()).hexdigest()
        facts["chat"] = {"template": told, "multiturn": chat.multiturn}
    model = HarnessModel(
        net.to(device), codec, n_rows=n_rows, max_length=length, bos=bos, template=template,
        begin=shown.begin, done=shown.done,
    )  # fmt: skip
    return model, facts


def _tokenizer_of(folder: Path) -> dict[str, str]:
    """Return the sha256 of a folder's tokenizer; a run's is decided by its data."""
    file = folder / "tokenizer.json"
    return {"tokenizer": file_digest(file).hex()} if file.is_file() else {}


def _place(model: Path, root: Path) -> Path:
    if (model / "result.json").is_file() or (model / RUN_WEIGHTS).is_file():
        return model / "evaluation"
    return root / "evaluation" / model.resolve().name
