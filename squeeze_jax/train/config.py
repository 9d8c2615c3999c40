"""The keys of a config's train section, and the part of a config that one trial needs."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

from squeeze_jax.config_parsing import Range, convert, parse_section
from squeeze_jax.data import DataConfig
from squeeze_jax.network import ModelConfig

Count = Annotated[int, Range(at_least=0)]
BatchSize = Annotated[int, Range(at_least=1, at_most=2**20)]
NonNegative = Annotated[float, Range(at_least=0)]
Seed = Annotated[int, Range(at_least=0, below=2**32)]


@dataclass(frozen=True)
class TrainConfig:
    """The recipe; the defaults train a plain SqueezeNet from scratch at small scale."""

    epochs: NonNegative = 10.0
    steps: Count = 0  # optimizer steps, in place of epochs where above 0
    min_steps: Count = 0  # epochs make at least so many, for sets of few batches
    batch_size: BatchSize = 64  # images a step over all devices
    # Micro-batches of a batch, one after another (Caffe's iter_size); 0: as many as are fastest.
    grad_accum_steps: Count = 0
    optimizer: str = "sgd"  # a key of OPTIMIZERS
    learning_rate: NonNegative = 0.05  # the peak of the schedule
    schedule: str = "linear"  # to 0; or constant, poly, cosine
    power: NonNegative = 1.0  # of poly
    warmup: Annotated[float, Range(at_least=0, below=1)] = 0.1  # fraction of the steps
    warmup_from: NonNegative = 0.0  # learning rate
    momentum: Annotated[float, Range(at_least=0, below=1)] = 0.9
    weight_decay: NonNegative = 2e-4
    clip_norm: NonNegative = 1.0  # of the gradient; 0: none
    label_smoothing: Annotated[float, Range(at_least=0, below=1)] = 0.0
    dtype: str = "float32"  # or bfloat16
    eval_batch_size: BatchSize = 256
    eval_every: Count = 0  # steps; 0: at the end only
    log_every: Annotated[int, Range(at_least=1)] = 20  # steps
    checkpoint_every: Count = 0  # steps; 0: at the end, and when asked to stop
    trackers: tuple[str, ...] = ()  # keys of TRACKERS, besides "jsonl", which is always on
    # Whose weights training starts from, its classifier only where the classes are the same: a
    # checkpoint, a .sqz file, a file that `squeeze-jax import` reads, or "trial:NAME", an earlier
    # trial of the same study.
    init_from: str = ""
    # Layers that stay as they are, by name or pattern: ("conv1", "fire[2-5]").
    freeze: tuple[str, ...] = ()
    # Fractions of weights by layer, the first match counts: (("conv10", 0.2), ("fire*", 0.33)).
    # The smallest others are zero from the start and stay zero; 1.0 keeps the zeros of init_from.
    prune_density: tuple[tuple[str, float], ...] = ()
    # 1 to 8: the weights of a layer start as 2^bits values, zero among them, and stay shared;
    # 0: none.
    codebook_bits: Annotated[int, Range(at_least=0, at_most=8)] = 0
    # The kernels of init_from that are multiples of one step, as those of a lossy .sqz file, stay
    # so, and zeros zero.
    qat: bool = False


@dataclass(frozen=True)
class TrialConfig:
    """What one training depends on."""

    seed: int
    model: ModelConfig
    data: DataConfig
    train: TrainConfig

    @classmethod
    def parse(cls, config: Any) -> "TrialConfig":
        """Returns the part of a trial's whole config, a mapping or a ConfigDict, that it trains by.

        Raises:
          UserError: an unknown key, or a value of another type or out of range, in the data or
            train section.
        """
        return cls(
            convert(config["seed"], Seed, "seed"),
            ModelConfig.from_mapping(config["model"]),
            parse_section(DataConfig, config["data"], "data"),
            parse_section(TrainConfig, config["train"], "train"),
        )

    def compiled_part(self) -> "TrialConfig":
        """Returns the config without what a compiled trial takes as arguments.

        Trials for which this is equal share one `CompiledTrial`: they may differ in the seed, the
        starting weights, and the learning rate and its schedule.
        """
        defaults = TrainConfig()
        arguments = (
            "init_from",
            "learning_rate",
            "schedule",
            "power",
            "warmup",
            "warmup_from",
        )
        train = dataclasses.replace(
            self.train, **{key: getattr(defaults, key) for key in arguments}
        )
        return dataclasses.replace(self, seed=0, train=train)
