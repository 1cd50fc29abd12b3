"""TRL's trainers as a stage wants them, over rows that are encoded and packed already."""

import copy
from pathlib import Path
from typing import Any

from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from hymba_lab.config.tuning import Dpo, Lisa, Sft
from hymba_lab.finetune.callbacks import Checkpoints, LayersDrawn, Logs
from hymba_lab.finetune.method import adapter_config
from hymba_lab.finetune.plan import Plan
from hymba_lab.finetune.prepare import Prepared


class PairTrainer(DPOTrainer):
    """DPO over pairs of ids."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


def trainer_of(
    stage: Sft | Dpo,
    model: Any,
    tokenizer: Any,
    data: Prepared,
    plan: Plan,
    *,
    checkpoints: Path,
    logs: Logs,
    on_cpu: bool,
) -> Any:
    """Return the trainer; `model` becomes its own."""
    callbacks: list[Any] = [logs, Checkpoints()]
    if isinstance(stage.method, Lisa):
        blocks = model.model.net.blocks
        method = stage.method
        callbacks.append(LayersDrawn(blocks, method.n_layers, method.every, stage.seed))
    shared: dict[str, Any] = {
        "train_dataset": data.train,
        "eval_dataset": data.val,
        "processing_class": tokenizer,
        "peft_config": adapter_config(stage.method, model),
        "callbacks": callbacks,
    }
    options = _options(stage, plan, checkpoints, on_cpu, validates=data.val is not None)
    if isinstance(stage, Sft):
        sft = SFTConfig(
            **options,
            packing=stage.packing == "bfd",  # of rows packed already: documents are kept apart
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        _one_device(sft, on_cpu)
        return _silent(SFTTrainer(model, args=sft, **shared))
    dpo = DPOConfig(
        **options, beta=stage.beta, loss_type=[stage.loss], label_smoothing=stage.label_smoothing
    )
    _one_device(dpo, on_cpu)
    reference = None if shared["peft_config"] else copy.deepcopy(model)
    return _silent(PairTrainer(model, ref_model=reference, args=dpo, **shared))


def _one_device(options: Any, on_cpu: bool) -> None:
    """Keep Trainer from spreading rows over every GPU it sees, which TRL then refuses."""
    if not on_cpu:
        options._n_gpu = 1


def _silent(trainer: Any) -> Any:
    """Return the trainer without what prints every log as it is."""
    trainer.remove_callback(PrinterCallback)
    return trainer


def _options(
    stage: Sft | Dpo, plan: Plan, checkpoints: Path, on_cpu: bool, *, validates: bool
) -> dict[str, Any]:
    warmup = round(stage.warmup_fraction * plan.n_steps)
    schedule = "constant_with_warmup" if stage.schedule == "constant" else stage.schedule
    return {
        "output_dir": str(checkpoints),
        "max_steps": plan.n_steps,
        "per_device_train_batch_size": stage.micro_rows,
        "per_device_eval_batch_size": stage.micro_rows,
        "gradient_accumulation_steps": stage.rows // stage.micro_rows,
        "learning_rate": stage.lr,
        "lr_scheduler_type": schedule,
        "warmup_steps": warmup,
        "weight_decay": stage.weight_decay,
        "max_grad_norm": stage.grad_clip,
        "max_length": stage.seq_len,
        "optim": "adamw_torch",
        "bf16": stage.precision == "bf16-mixed",
        "gradient_checkpointing": stage.recompute,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "seed": stage.seed,
        "logging_steps": stage.log_every,
        "logging_nan_inf_filter": False,
        "save_steps": stage.checkpoint_every,
        "save_total_limit": 2,  # the newest is not whole until it is marked
        "eval_strategy": "steps" if validates else "no",
        "eval_steps": stage.checkpoint_every if validates else None,
        "report_to": [],
        "use_cpu": on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "disable_tqdm": True,
    }
