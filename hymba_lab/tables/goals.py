"""Whether more of a metric is better, as far as its name says it."""

import re
from collections.abc import Sequence

from hymba_lab.stats import Goal

_MORE = {
    "accuracy", "acc", "f1", "bleu", "rouge", "auc", "auroc", "auprc", "map", "mrr", "em", "recall",
    "precision", "reward", "return", "r2", "iou", "miou", "dice", "psnr", "ssim", "score", "likes",
    "win", "wins", "throughput",
}  # fmt: skip
_LESS = {
    "loss", "error", "err", "perplexity", "ppl", "bpb", "bits", "nll", "cer", "wer", "ter", "mse",
    "mae", "rmse", "fid", "kl", "entropy", "time", "seconds", "latency", "regret", "distance",
}  # fmt: skip


def goal_of(metric: str) -> Goal | None:
    """Return the good direction that a metric's name tells; None where it tells none, or both."""
    words = set(re.split(r"[^a-z0-9]+", metric.lower()))
    more, less = bool(words & _MORE), bool(words & _LESS)
    if more == less:
        return None
    return "maximize" if more else "minimize"


def goal_notes(metric: str, goal: Goal) -> Sequence[str]:
    """Return which end is better, and a doubt where the metric's name tells the other."""
    note = f"{'Larger' if goal == 'maximize' else 'Smaller'} {metric} counts as better"
    known = goal_of(metric)
    if known is None or known == goal:
        return [f"{note}."]
    return [f"{note}, as was asked; its name sounds as if the goal were to {known}."]
