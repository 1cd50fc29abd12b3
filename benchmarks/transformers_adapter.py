"""Speed through transformers and the harness against the lab's own loops, as ratios of one run.

    python benchmarks/transformers_adapter.py

`generate`: tokens per second of generate() of transformers over the lab's own, the same weights and
prompts. `evaluate`: multiple-choice questions per second of `hymba-lab evaluate` over those of
every text alone with logits at all places, as the harness's own class asks at `--batch_size 1`; on
a model of 5 million parameters.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from hymba_lab.checkpoints.codec import SourceIds
from hymba_lab.config import load_config
from hymba_lab.data.tokenizers import Bytes
from hymba_lab.runs.provenance import commit, hardware

SHAPE = (
    "model.d_model=256",
    "model.n_layers=6",
    "model.heads={name: hybrid, n_heads: 4, n_kv_heads: 2, d_head: 64, expand: 2}",
    "model.mlp.d_ff=256",
)
VOCAB = 256
ROUNDS = 5


def main() -> None:
    """Print both ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=1000, metavar="N")
    parser.add_argument("--slow", type=int, default=100, metavar="N", help="asked one by one")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = _model()
    n_params = sum(p.numel() for p in model.parameters())
    print(f"{n_params / 1e6:.1f} M parameters, {options.threads} thread(s) of {hardware()}")
    print(f"commit {commit().sha}")
    for n_rows in (1, 8):
        print(f"generate, {n_rows} row(s): {_generation(model, n_rows):.2f} of the lab's own loop")
    print(f"evaluate: {_evaluation(model, options):.1f} times the questions of batch size 1")


def _model() -> Any:
    from hymba_lab.hf import HymbaLabConfig, HymbaLabForCausalLM

    torch.manual_seed(0)
    config = load_config("experiments/nano.yaml", SHAPE)
    return HymbaLabForCausalLM(HymbaLabConfig.of(config, VOCAB, 0, torch.float32)).eval()


def _generation(model: Any, n_rows: int, n_new: int = 64) -> float:
    ids = torch.randint(1, VOCAB, (n_rows, 32))
    asked = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    ratios: list[float] = []
    for _ in range(ROUNDS + 1):  # in turns, so that a machine that slows down slows both
        theirs = _seconds(lambda: model.generate(ids, max_new_tokens=n_new, **asked))
        own = _seconds(lambda: model.model.net.generate(ids, max_new_tokens=n_new))
        ratios.append(own / theirs)
    return statistics.median(ratios[1:])


def _evaluation(model: Any, options: argparse.Namespace) -> float:
    from hymba_lab.evaluation.harness_model import HarnessModel

    questions = _questions(options.questions)
    codec = SourceIds(Bytes(), 0)
    ours = HarnessModel(model.model.net, codec, n_rows=32, max_length=512)
    fast: float = options.questions / _seconds(lambda: ours._loglikelihood_tokens(questions))
    slow: float = options.slow / _seconds(lambda: _one_by_one(model, questions[: 4 * options.slow]))
    print(f"  {fast:.1f} and {slow:.1f} questions per second")
    return fast / slow


def _one_by_one(model: Any, questions: list[Any]) -> None:
    """Ask as the harness's own class does at batch size 1: every text alone, logits everywhere."""
    with torch.no_grad():
        for _, context, continuation in questions:
            row = torch.tensor([(context + continuation)[:-1]])
            log_p = model(row).logits.log_softmax(-1)[0, -len(continuation) :]
            log_p.gather(1, torch.tensor(continuation)[:, None]).sum().item()


def _questions(n: int) -> list[Any]:
    """Four choices of 1 to 20 bytes each after a text of 80 to 240 bytes."""
    random = torch.Generator().manual_seed(0)

    def ids(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high + 1, (), generator=random))
        return torch.randint(1, VOCAB, (length,), generator=random).tolist()

    found = []
    for _ in range(n):
        context = ids(80, 240)
        found += [(None, context, ids(1, 20)) for _ in range(4)]
    return found


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
