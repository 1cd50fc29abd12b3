"""Speed through transformers and the harness against the lab's own loops, as ratios of one run.

    python benchmarks/transformers_adapter.py

`generate`: tokens per second of generate() of transformers over the lab's own, the same weights and
prompts. `evaluate`: multiple-choice questions per second of `hymba-lab evaluate` over those of
every text alone with logits at all places, as the harness's own class asks at `--batch_size 1`; on
models of 5 million parameters, of bytes and of the released tokenizer's vocabulary.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
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
WIDE = 32_001  # ids of the released tokenizer
THIN = (  # with which 5 million parameters are mostly embeddings
    "model.d_model=112",
    "model.tie_embeddings=true",
    "model.n_layers=6",
    "model.heads={name: hybrid, n_heads: 4, n_kv_heads: 2, d_head: 28, expand: 2}",
    "model.mlp.d_ff=224",
)
ROUNDS = 5
TURNS = 5


def main() -> None:
    """Print both ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    both = ["generate", "evaluate"]
    parser.add_argument("what", nargs="*", default=both, help=" or ".join(both))
    parser.add_argument("--questions", type=int, default=1000, metavar="N")
    parser.add_argument("--slow", type=int, default=100, metavar="N", help="asked one by one")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} thread(s) of {hardware()}, commit {commit().sha}")
    model = _model(SHAPE, VOCAB)
    for n_rows in (1, 8) if "generate" in options.what else ():
        print(f"generate, {n_rows} row(s): {_generation(model, n_rows):.2f} of the lab's own loop")
    if "evaluate" not in options.what:
        return
    for found in (model, _model(THIN, WIDE)):
        ratio = _evaluation(found, options)
        n_params = sum(p.numel() for p in found.parameters())
        print(f"evaluate, {n_params / 1e6:.1f} M parameters: {ratio:.1f} times batch size 1")


def _model(shape: Sequence[str], vocab: int) -> Any:
    from hymba_lab.hf import HymbaLabConfig, HymbaLabForCausalLM

    torch.manual_seed(0)
    config = load_config("experiments/nano.yaml", shape)
    return HymbaLabForCausalLM(HymbaLabConfig.of(config, vocab, 0, torch.float32)).eval()


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
    """Return the ratio of questions per second of CPU: other work of the machine is not counted.

    The sides take turns, since a machine that others use slows down for minutes.
    """
    from hymba_lab.evaluation.harness_model import HarnessModel

    vocab = model.config.vocab_size
    questions = _questions(options.questions, vocab)
    ours = HarnessModel(model.model.net, SourceIds(Bytes(), 0), n_rows=32, max_length=512)
    _one_by_one(model, questions[:8])
    few = 4 * max(1, options.slow // TURNS)
    fast = slow = 0.0
    for turn in range(TURNS):
        slow += _cpu_seconds(partial(_one_by_one, model, questions[turn * few :][:few]))
        fast += _cpu_seconds(partial(ours._loglikelihood_tokens, questions)) if turn == 0 else 0.0
    slow /= few // 4 * TURNS
    fast /= options.questions
    print(f"  {1 / fast:.1f} and {1 / slow:.1f} questions per second of CPU, {vocab:,} ids")
    return float(slow / fast)


def _one_by_one(model: Any, questions: list[Any]) -> None:
    """Ask as the harness's own class does at batch size 1: every text alone, logits everywhere."""
    with torch.no_grad():
        for _, context, continuation in questions:
            row = torch.tensor([(context + continuation)[:-1]])
            log_p = model(row).logits.log_softmax(-1)[0, -len(continuation) :]
            log_p.gather(1, torch.tensor(continuation)[:, None]).sum().item()


def _questions(n: int, vocab: int) -> list[Any]:
    """Four choices of 1 to 20 tokens each after a text of 80 to 240 tokens."""
    random = torch.Generator().manual_seed(0)

    def ids(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high + 1, (), generator=random))
        return torch.randint(1, vocab, (length,), generator=random).tolist()

    found = []
    for _ in range(n):
        context = ids(80, 240)
        found += [(None, context, ids(1, 20)) for _ in range(4)]
    return found


def _cpu_seconds(call: Callable[[], Any]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
