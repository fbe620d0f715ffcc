"""An experiment: everything a run needs to know, as frozen dataclasses. No optax and no JAX here.

configs/ returns Experiments; train/fields.py reads, writes and edits them by path; RUN/config.json holds one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from data.config import Data
from model.config import Execution, LoRA, Model


@dataclass(frozen=True)
class AdamW:
    """Loshchilov & Hutter 2019. Weight decay acts on matrices only, never on vectors."""

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1


@dataclass(frozen=True)
class Muon:
    """Jordan et al. 2024: momentum, orthogonalised by `iterations` Newton-Schulz steps, for the blocks' matrices.

    Everything else (embeddings, output, vectors) goes to AdamW at rate peak_rate * `adam_rate`.
    """

    momentum: float = 0.95
    nesterov: bool = True
    iterations: int = 5
    weight_decay: float = 0.0
    adam: AdamW = field(default_factory=AdamW)
    adam_rate: float = 0.1


@dataclass(frozen=True)
class Lion:
    """Chen et al. 2023: the sign of an interpolated momentum."""

    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.1


@dataclass(frozen=True)
class Adafactor:
    """Shazeer & Stern 2018: second moments factored over the inputs and the outputs of every matrix."""

    decay: float = 0.8
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """The learning rate over the run: linear warm-up over `warmup` steps, then `shape` down to peak * `final`.

    `wsd` (Hu et al. 2024) stays at the peak and falls linearly over the last `decay` share of the steps.
    """

    shape: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    warmup: int = 0
    final: float = 0.1
    decay: float = 0.2


@dataclass(frozen=True)
class Optimizer:
    peak_rate: float
    rule: AdamW | Muon | Lion | Adafactor = field(default_factory=AdamW)
    schedule: Schedule = field(default_factory=Schedule)
    clip: float | None = 1.0  # largest global norm of the gradient
    average: float | None = None  # decay per step of the weights' moving average (train/step.py), evaluated and saved


@dataclass(frozen=True)
class LikelihoodLoss:
    """The loss of each next token in nats, -log p: its mean over the tokens that count. `label_smoothing`: the share of
    a target's probability that is spread evenly over the vocabulary (Szegedy et al. 2016, section 7); metrics stay
    those of -log p."""

    label_smoothing: float = 0.0


@dataclass(frozen=True)
class DPO:
    """Direct preference optimization (train/dpo.py) over pairs (`Data.packing="pairs"`), against the weights that the
    run starts from (`--from`).

    `loss`: `sigmoid` (Rafailov et al. 2023, eq. 7), or `ipo`, a square (Azar et al. 2023, eq. 17, whose tau is `beta`).
    `label_smoothing`: the share of pairs whose labels are thought to be wrong, for `sigmoid` (Mitchell 2023, eq. 3:
    conservative DPO). `normalize_length`: log-probabilities are means over a response's tokens, not sums, as in the
    length-normalized DPO of Lambert et al. 2024 (Tulu 3), and in TRL's `ipo`.
    """

    beta: float = 0.1
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    label_smoothing: float = 0.0
    normalize_length: bool = False


@dataclass(frozen=True)
class Mesh:
    """Devices along each mesh axis (model/sharding.py). One axis may be 0: whatever the others leave.

    `replica` 1 and `data` 0 leave open which of them takes the rest: on CPU, whose cores share their memory, `replica`.
    """

    replica: int = 1
    data: int = 0
    context: int = 1
    tensor: int = 1
    expert: int = 1
    stage: int = 1


@dataclass(frozen=True)
class Checkpoints:
    every: int  # steps
    keep_last: int = 2
    keep_best: int = 1


@dataclass(frozen=True)
class HumanDistance:
    """How far what the model writes is from what people wrote (train/quality/gate.py), measured at each evaluation. The
    run ends once it has not become lower in `patience` evaluations.

    The model goes on from the first `prompt_tokens` of `texts` passages of the validation text, by `sampler`; people's
    own next `new_tokens` tokens stand beside what it writes.
    """

    texts: int = 64
    prompt_tokens: int = 32
    new_tokens: int = 64
    sampler: str = "temperature=0.8,top_p=0.95"
    patience: int = 5  # 0: the run goes on to its last step


@dataclass(frozen=True)
class Evaluation:
    every: int  # steps
    rows: int = 64  # rows in a batch that is scored
    samples: int = 1  # texts generated at each evaluation
    sample_tokens: int = 200
    prompt: str = "\n"
    sampler: str = "temperature=0.8,top_p=0.95"
    tasks: tuple[str, ...] = ()  # task files that are scored at each evaluation, into metrics.jsonl (README.md, Tasks)
    human: HumanDistance | None = None


@dataclass(frozen=True)
class PUE:
    """Power usage effectiveness: what a data centre takes for each unit that its computers take (ISO/IEC 30134-2). A
    survey's mean, where the house is not known: 1.56, 2024, "Uptime Institute, Global Data Center Survey"."""

    value: float
    year: int
    source: str


@dataclass(frozen=True)
class Grid:
    """What a kWh of electricity emits, gCO2e, from `low` to `high`: a mean over hours and plants is no exact figure.

    The world's: 445 to 473, 2024, "IEA, Electricity 2025; Ember, Global Electricity Review 2025"."""

    low: float
    high: float
    year: int
    source: str


@dataclass(frozen=True)
class Energy:
    """What is known of the power of a run, for RUN/card.json: null where nothing is.

    `chip_watts`: of one chip at work (a processor with all its cores, an accelerator), where no counter can be read;
    `chip_idle_watts`: while it waits; null: it takes `chip_watts` all the time."""

    chip_watts: float | None = None
    chip_idle_watts: float | None = None
    pue: PUE | None = None
    grid: Grid | None = None


# Chosen for the machine (launch/machine/auto.py).
AUTO_EXECUTION = Execution(dtype="auto", layers="auto", remat="auto", precision="bfloat16")


@dataclass(frozen=True)
class Experiment:
    """A run's config. Changing `model`, `data`, `objective`, `optimizer`, `seed`, `batch_size`, `microbatches`,
    `z_loss` or `lora` makes it another run (train/run.py); the rest may change on resuming."""

    name: str
    model: Model
    data: Data
    optimizer: Optimizer
    steps: int
    batch_size: int  # rows of the global batch
    evaluation: Evaluation
    checkpoints: Checkpoints
    objective: LikelihoodLoss | DPO = field(default_factory=LikelihoodLoss)
    lora: LoRA | None = None  # train adapters beside another run's weights (--from), which stay as they are
    z_loss: float = 0.0  # times the mean square of logsumexp(logits): keeps them from drifting (PaLM, section 5)
    seed: int = 0
    microbatches: int = 1  # the batch is split into these, gradients summed
    steps_per_dispatch: int = 0  # steps compiled into one program call; 0: chosen for the machine
    mesh: Mesh = field(default_factory=Mesh)
    chip_hour: float = 0.0  # price of an hour of one chip, in any currency; 0: not stated. For plans and RUN/card.json.
    energy: Energy = field(default_factory=Energy)
    execution: Execution = AUTO_EXECUTION
