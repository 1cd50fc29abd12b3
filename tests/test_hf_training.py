"""Training through transformers: equal gradients, exact resume, adapters that merge."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_folders import FOLDER, HYMBA, VOCAB, lab_model, load, padded, prompts, tiny_folder
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from hymba_lab.hf import HymbaForCausalLM

# TRL 1.16 and peft 0.21 still ask under the name that transformers 5.24 has replaced
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")


def saved_bytes(model: HymbaForCausalLM, tokens: Tensor) -> tuple[int, list[Tensor]]:
    """Bytes that the forward pass keeps for the backward pass, weights aside; the gradients."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train().zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    return sum(kept.values()), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputing_saves_memory_and_changes_no_gradient(reentrant: bool) -> None:
    model, tokens = lab_model(**HYMBA), torch.randint(0, VOCAB, (4, 64))
    whole, expected = saved_bytes(model, tokens)
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()  # reentrant recomputing asks for it; adapters, too
    less, gradients = saved_bytes(model, tokens)
    assert less * 4 < whole
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(gradients, expected, strict=True))
    model.activation_checkpointing_disable()
    assert saved_bytes(model, tokens)[0] > 0.9 * whole


def trained(
    folder: Path, out: Path, n_steps: int, resume: str | None = None, **options: Any
) -> HymbaForCausalLM:
    random = torch.Generator().manual_seed(3)
    rows = [torch.randint(3, 97, (12,), generator=random) for _ in range(32)]
    data = [{"input_ids": row, "labels": row} for row in rows]
    torch.manual_seed(0)
    model = load(folder)
    arguments = TrainingArguments(
        str(out),
        max_steps=n_steps,
        per_device_train_batch_size=4,
        save_steps=3,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    Trainer(model, arguments, train_dataset=data).train(resume_from_checkpoint=resume)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "shards"])
def test_a_resumed_training_ends_with_the_same_bits(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint has released names, which `Trainer` itself would silently not find."""
    if kind == "shards":
        saving = HymbaForCausalLM.save_pretrained
        monkeypatch.setattr(
            HymbaForCausalLM,
            "save_pretrained",
            lambda self, *a, **k: saving(self, *a, **k | {"max_shard_size": "100KB"}),
        )
    folder = tiny_folder(tmp_path / "model")
    whole = trained(folder, tmp_path / "out", 6)
    resumed = trained(folder, tmp_path / "out", 6, str(tmp_path / "out/checkpoint-3"))
    start = load(folder).state_dict()
    for name, weight in resumed.state_dict().items():
        assert torch.equal(weight, whole.state_dict()[name])
    assert not torch.equal(resumed.lm_head.weight, start["lm_head.weight"])


def test_padded_rows_train_as_they_would_alone() -> None:
    """The gradient of a batch is the sum of its rows', whatever side the padding stands on."""
    model, rows = lab_model(**HYMBA).train(), prompts(5, seed=4)
    rows = [row for row in rows if len(row) > 1]

    def gradients(step: Callable[[], Tensor]) -> list[Tensor]:
        model.zero_grad()
        step().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    def scored(batch: dict[str, Tensor]) -> Tensor:
        labels = batch["input_ids"].where(batch["attention_mask"].bool(), -100)
        total = model(**batch, labels=labels, num_items_in_batch=torch.tensor(1)).loss
        return total  # type: ignore[no-any-return]

    alone = gradients(lambda: sum((scored(padded([row])) for row in rows), torch.zeros(())))
    for side in ("left", "right"):
        together = gradients(lambda side=side: scored(padded(rows, side)))
        for ours, theirs in zip(together, alone, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


# --- adapters


@pytest.mark.slow
@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
def test_an_adapter_reaches_every_map_and_merges(dora: bool, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = load(tiny_folder(tmp_path), dtype="float64")
    before = {name: weight.clone() for name, weight in base.named_parameters()}
    config = peft.LoraConfig(
        r=4, target_modules="all-linear", use_dora=dora, task_type="CAUSAL_LM", lora_dropout=0.0
    )
    model = peft.get_peft_model(base, config)
    tokens = torch.randint(3, 97, (4, 20), generator=torch.Generator().manual_seed(1))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained), "dt, too"
    adapted = {name.split(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert any(name.endswith("mixer.ssm.dt") for name in adapted)
    for name, weight in base.named_parameters():
        if not any(part in name for part in ("lora_", "magnitude")):
            assert torch.equal(weight, before[name.replace(".base_layer", "")])
    model.eval()
    with torch.no_grad():
        expected = model(input_ids=tokens).logits
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(tokens).logits, expected, rtol=0, atol=1e-6)


def test_the_map_of_the_steps_is_called_as_a_module() -> None:
    seen = []
    model = lab_model()
    for block in model.model.net.blocks:
        block.mixer.ssm.dt.register_forward_hook(lambda *_: seen.append(1))
    model(torch.tensor([[1, 2, 3]]))
    assert len(seen) == 2


@pytest.mark.campaign
@pytest.mark.slow
def test_trl_on_the_released_format(tmp_path: Path) -> None:
    """SFT, padded and packed with documents told apart: the loss falls."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    folder = tiny_folder(tmp_path / "model")
    asked = {"output_dir": str(tmp_path / "out"), "report_to": [], "use_cpu": True, "bf16": False}
    chats = [
        [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": str(n) * 3}]
        for n in range(10)
    ]
    data = datasets.Dataset.from_list([{"messages": chat} for chat in chats * 4])
    for packing in (False, True):
        config = trl.SFTConfig(
            **asked, packing=packing, max_length=64, max_steps=12, learning_rate=1e-2,
            per_device_train_batch_size=4, logging_steps=1, assistant_only_loss=not packing,
        )  # fmt: skip
        trainer = trl.SFTTrainer(str(folder), config, train_dataset=data)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert losses[-1] < losses[0]


SHA256 = "04120a02fe0bdd0ca23ae26e04f1c1d4b7ad58273f1c15dfc2f5ff0b83c5a23a"


def test_the_shared_checkpoint_is_untouched() -> None:
    found = hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()
    assert found == SHA256
    assert isinstance(load(FOLDER).lm_head, nn.Linear)
