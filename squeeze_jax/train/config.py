"""The keys of a config's train section, and the part of a config that one trial needs."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Annotated, Any

from squeeze_jax.config_parsing import Range, convert, parse_section
from squeeze_jax.data import DataConfig
from squeeze_jax.errors import UserError
from squeeze_jax.network import ModelConfig
from squeeze_jax.network.config import DEFAULT_CHANNELS
from squeeze_jax.network.preprocessing import CHANNELS

Count = Annotated[int, Range(at_least=0)]
MAX_BATCH_SIZE = 2**20
BatchSize = Annotated[int, Range(at_least=1, at_most=MAX_BATCH_SIZE)]
NonNegative = Annotated[float, Range(at_least=0)]
Alpha = Annotated[float, Range(at_least=0, at_most=100)]
Seed = Annotated[int, Range(at_least=0, below=2**32)]


@dataclass(frozen=True)
class TrainConfig:
    """The recipe; the defaults train a plain SqueezeNet from scratch at small scale."""

    epochs: Annotated[float, Range(at_least=0, at_most=1e9)] = 10.0
    steps: Count = 0  # optimizer steps, in place of epochs where above 0
    min_steps: Count = 0  # epochs make at least so many, for sets of few batches
    batch_size: BatchSize = 64  # images a step over all devices
    # Micro-batches of a batch, one after another (Caffe's iter_size); 0: as many as are fastest.
    grad_accum_steps: Count = 0
    # Images that share BatchNorm's statistics in training, by their position in the batch of all
    # devices ("ghost batches"); 0: the whole batch, which no micro-batches can divide.
    bn_group_size: Count = 16
    optimizer: str = "sgd"  # Caffe's; or nesterov, adamw, lamb, lion, muon: a key of OPTIMIZERS
    learning_rate: NonNegative = 0.05  # the peak of the schedule
    schedule: str = "linear"  # to 0; or constant, poly, cosine
    power: NonNegative = 1.0  # of poly
    warmup: Annotated[float, Range(at_least=0, below=1)] = 0.1  # fraction of the steps
    warmup_from: NonNegative = 0.0  # learning rate
    # Caffe's and Nesterov's; beta1 of adamw, lamb and lion; muon's of kernels, where 0.95 is usual.
    momentum: Annotated[float, Range(at_least=0, below=1)] = 0.9
    # Of adamw, lamb, lion and muon; 0: optax's own, 0.999, but 0.99 of lion.
    beta2: Annotated[float, Range(at_least=0, below=1)] = 0.0
    weight_decay: NonNegative = 2e-4
    # Off: biases and BatchNorm's scale and bias do not decay.
    decay_norm_and_bias: bool = True
    clip_norm: NonNegative = 1.0  # of the gradient; 0: none
    label_smoothing: Annotated[float, Range(at_least=0, below=1)] = 0.0
    # The moving average of the weights that is evaluated and saved as the network, such as 0.999;
    # 0: none.
    ema_decay: Annotated[float, Range(at_least=0, below=1)] = 0.0
    # Mix neighbours of a batch in pairs; alpha of the Beta distribution of their shares; 0: off.
    # Where both are on, each pair draws one of them.
    mixup: Alpha = 0.0
    cutmix: Alpha = 0.0
    dtype: str = "float32"  # or bfloat16
    eval_batch_size: BatchSize = 256
    eval_every: Count = 0  # steps; 0: at the end only
    log_every: Annotated[int, Range(at_least=1)] = 20  # steps
    checkpoint_every: Count = 0  # steps; 0: at the end, and when asked to stop
    # FIRST:LAST, counted from 1: a trace of these steps for XProf and Perfetto, in the trial's
    # folder profile/; evaluations between them are in it.
    profile: str = ""
    trackers: tuple[str, ...] = ()  # keys of TRACKERS, besides "jsonl", which is always on
    # Whose weights training starts from, its classifier only where the classes are the same: a
    # checkpoint, a .sqz file, a file that `squeeze-jax import` reads, or "trial:NAME", an earlier
    # trial of the same study.
    init_from: str = ""
    # Whose softened outputs the net learns beside the labels (Hinton et al. 2015, arXiv
    # 1503.02531): the same as of init_from, with the data's classes. It sees the net's own images,
    # at its own resolution.
    # The loss is (1 - w) cross-entropy + w T^2 KL(teacher || net), both softmaxes of logits / T.
    # T and w are those of the baseline that later methods compare with (Tian et al. 2019, arXiv
    # 1910.10699).
    teacher: str = ""
    teacher_temperature: Annotated[float, Range(above=0)] = 4.0  # T
    teacher_weight: Annotated[float, Range(at_least=0, at_most=1)] = 0.9  # w
    # Augmented views of each image, one an epoch in turn, whose logits are remembered: see
    # teacher_views.py; 0: the teacher sees a new view at each step.
    teacher_views: Count = 0
    # Layers that are not trained, by name or pattern: ("conv1", "fire[2-5]"). Those of
    # prune_density and codebook_bits are pruned and clustered once, at the start.
    freeze: tuple[str, ...] = ()
    # Fractions of weights by layer, the first match counts: (("conv10", 0.2), ("fire*", 0.33)).
    # The smallest others are zero from the start and stay zero, and so do the zeros of init_from in
    # all layers.
    prune_density: tuple[tuple[str, float], ...] = ()
    # 1 to 8: the weights of a layer start as 2^bits values, zero among them, and stay shared;
    # 0: none.
    codebook_bits: Annotated[int, Range(at_least=0, at_most=8)] = 0
    # The kernels of init_from that are multiples of one step, as those of a lossy .sqz file, stay
    # so, and zeros zero.
    qat: bool = False

    def profiled_steps(self) -> tuple[int, int] | None:
        """Returns the first and the last step of `profile`; None where it is empty.

        Raises:
          UserError: it is no FIRST:LAST.
        """
        if not self.profile:
            return None
        match = re.fullmatch(r"(\d+):(\d+)", self.profile)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f"train.profile is FIRST:LAST, counted from 1; got {self.profile!r}")
        return int(match[1]), int(match[2])


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
            train section; or the model is for images of other channels.
        """
        data = parse_section(DataConfig, config["data"], "data")
        # An unknown order is refused with the other choices of the data.
        channels = CHANNELS.get(data.channel_order, DEFAULT_CHANNELS)
        return cls(
            convert(config["seed"], Seed, "seed"),
            ModelConfig.from_mapping(config["model"]).for_channels(channels),
            data,
            parse_section(TrainConfig, config["train"], "train"),
        )

    def compiled_part(self) -> "TrialConfig":
        """Returns the config without what a compiled trial takes as arguments.

        Trials for which this is equal, and whose teachers are equal, share one `CompiledTrial`:
        they may differ in the seed, the starting weights, the teacher's weights, and the learning
        rate and its schedule.
        """
        defaults = TrainConfig()
        arguments = (
            "init_from",
            "teacher",
            "profile",
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
