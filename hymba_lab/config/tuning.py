"""Keys of fine-tuning: of a stage's own YAML, and of the stages of an experiment."""

from typing import Annotated, Literal

from pydantic import Field

from hymba_lab.registry import FROM_FILE, FromFile, Section, Spec

Positive = Annotated[int, Field(ge=1, le=2**31)]
Format = Literal[
    "text_only", "text2text", "conversation", "paired_conversation",
    "text", "messages", "prompt_completion", "alpaca", "preference",
]  # fmt: skip


class Data(Section):
    """What is learned from; paths are relative to the file that names them."""

    paths: Annotated[
        list[str], Field(min_length=1), FROM_FILE
    ]  # files, patterns, or folders of files
    format: Format | None = None  # null = told by the keys of a file's first record
    as_messages: bool = False  # prompts and answers that are text become turns of the template
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0  # held out, for `val/loss`
    too_long: Literal["refuse", "cut", "drop"] = "refuse"  # examples of more than seq_len tokens


class Full(Spec):
    """Every weight."""

    name: Literal["full"]


class Lora(Spec):
    """Low-rank matrices beside the linear maps named by `targets`."""

    name: Literal["lora"]
    r: Positive = 16  # rank
    alpha: Annotated[float, Field(gt=0)] = 32.0  # the matrices count alpha / r times
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Annotated[list[str], Field(min_length=1)] | Literal["all"] = "all"  # q, x, dt, up ...
    at_most: Annotated[float, Field(gt=0, le=1)] | None = None  # refuse a larger trained fraction
    merge: bool = True  # the folder gets merged weights; the adapter is kept beside them


class Dora(Lora):
    """LoRA with the length of every column trained apart from its direction."""

    name: Literal["dora"]  # type: ignore[assignment]


class Lisa(Spec):
    """A few blocks at a time, drawn anew every so often; what is outside of blocks always."""

    name: Literal["lisa"]
    n_layers: Positive = 2  # blocks at a time
    every: Positive = 20  # steps until others are drawn


Method = Annotated[Full | Lora | Dora | Lisa, Field(discriminator="name")]


class TuningKeys(Section):
    """What SFT and DPO share."""

    data: Data
    template: Annotated[str | None, FromFile("plain")] = None  # null = model's own; or FILE.jinja
    seq_len: Annotated[int, Field(ge=2, le=2**24)] = 2048  # the longest row in tokens
    method: Method = Field(default_factory=lambda: Full(name="full"))
    lr: Annotated[float, Field(gt=0, lt=10)]  # its highest value
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of all steps
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    grad_clip: Annotated[float, Field(gt=0)] = 1.0
    epochs: Annotated[float, Field(gt=0)] = 1.0
    max_steps: Positive | None = None  # stop here, where it comes before the epochs' end
    rows: Positive  # a step's rows (DPO: pairs)
    micro_rows: Positive = 1  # computed at a time; divides rows
    precision: Literal["fp32", "bf16-mixed", "bf16-true"] = "fp32"
    recompute: bool = True  # blocks once more in the backward, to keep less of them
    log_every: Positive = 10  # steps
    checkpoint_every: Positive = 200  # steps


class SftKeys(TuningKeys):
    """Supervised fine-tuning: texts, answers to prompts, conversations."""

    packing: Literal["bfd", "wrapped"] | None = None  # several examples a row; bfd keeps them apart
    loss_on: Literal["answers", "everything"] = "answers"  # where there are answers


class DpoKeys(TuningKeys):
    """Direct preference optimization: of two answers the chosen one is made likelier."""

    beta: Annotated[float, Field(gt=0)] = 0.1  # how strongly the start is kept to
    loss: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0


class Stage(Section):
    """What a stage in a file of its own says beside that."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]
    description: str = ""
    model: str  # folder to start from: a release, a run, or the stage before
    out: str | None = None  # folder to write; null = finetuned/<name> under --root
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class Sft(Stage, SftKeys):
    """SFT of the model in a folder."""


class Dpo(Stage, DpoKeys):
    """DPO of the model in a folder."""


KINDS: dict[str, type[Sft] | type[Dpo]] = {"sft": Sft, "dpo": Dpo}
COSMETIC = ("name", "description", "model", "out", "log_every", "checkpoint_every", "recompute")
"""Keys that cannot change what is learned; the model counts by its weights."""
