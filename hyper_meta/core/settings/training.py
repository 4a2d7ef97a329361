"""The settings of what learns: records of sections of configs/digits_vqa.py."""

from __future__ import annotations

import dataclasses

from hyper_meta.core.settings.rules import count, rate, setting, share, widths

CONDITIONS = ("pooled", "tokens")

record = dataclasses.dataclass(frozen=True, kw_only=True)


@record
class TrainingSettings:
    """What every stage has."""

    learning_rates: tuple[float, ...] = rate("each is trained, the best on validation tasks kept")
    batch_size: int = count("tasks or rows of a step")
    num_steps: int = count("steps, a multiple of chunk_steps")
    chunk_steps: int = count("steps from one validation to the next")


@record
class TaskTrainingSettings(TrainingSettings):
    """A stage that learns from batches of tasks."""

    clip_norm: float = setting("largest norm of a gradient", above=0)
    ema_decay: float = setting("of the averaged parameters, 0 for none", at_least=0, below=1)
    patience: int = setting(
        "chunks without a better validation that end the stage, 0 for no end", at_least=0
    )


@record
class AdaptedTrainingSettings(TaskTrainingSettings):
    """A stage whose inner loop adapts to each task."""

    inner_steps: int = setting("steps of MAML's inner loop", at_least=0)
    inner_learning_rate: float = rate("of the inner loop")


@record
class HNetSettings(AdaptedTrainingSettings):
    """Latent -> weights."""

    latent_dim: int = count("Z")
    hidden_dims: tuple[int, ...] = widths("widths of the generator")


@record
class ConditionalSettings(AdaptedTrainingSettings):
    """Question -> weights."""

    hidden_dims: tuple[int, ...] = widths("widths of the generator")
    standardise: bool = setting("questions by mean and deviation over the training questions")


@record
class FilmSettings(TaskTrainingSettings):
    """Question -> scale and shift of the hidden units of one adapter."""

    condition: str = setting("what it reads of a question", choices=CONDITIONS)
    hidden_dims: tuple[int, ...] = widths("widths of the network that reads the question")
    standardise: bool = setting("questions by mean and deviation over the training questions")


@record
class LanguageSettings(AdaptedTrainingSettings):
    """HNet started by the sentence: sentence -> latent -> weights."""

    condition: str = setting("what it reads of a question", choices=CONDITIONS)
    latent_dim: int = count("Z")
    hidden_dims: tuple[int, ...] = widths("widths of the generator")
    objective: str = setting("order of the inner gradients", choices=("fomaml", "maml"))
    adapted_share: float = share(
        "of the loss that is taken after the inner steps", may_be_zero=True
    )
    drop_rate: float = share("of tasks whose sentence is dropped in training", may_be_zero=True)
    strengths: tuple[float, ...] = setting(
        "how far a latent goes from e0 to where its sentence is read, to choose from", above=0
    )


@record
class GeneratorsSettings(LanguageSettings):
    """Generators trained side by side."""

    num_members: int = count("generators")


@record
class DistilledSettings(LanguageSettings):
    """A generator that may learn from several."""

    teacher_share: float = share(
        "of the loss where the sentence starts, of the generators; the rest is labels",
        may_be_zero=True,
    )
    recombined_share: float = share("of tasks that are asked in new sentences", may_be_zero=True)
    most_recombined: int = count("new sentences made of each training sentence")


@record
class GuidanceSettings:
    """How HyperCLIP moves a latent from e0."""

    optimizer: str = setting("of the latent", choices=("sgd", "adam"))
    steps: tuple[int, ...] = count("numbers of steps to choose from")
    learning_rates: tuple[float, ...] = rate("to choose from")
    pull: tuple[float, ...] = setting("weights of 1/2 ||e - e0||^2 to choose from", at_least=0)
    cosine: bool = setting("whether the rate decays as a cosine")
    langevin: float = setting("size of the noise", at_least=0)


@record
class HyperCLIPSettings(TrainingSettings):
    """Weights -> the space of questions."""

    guidance: GuidanceSettings
    hidden_dims: tuple[int, ...] = widths("widths of the encoder")
    standardise: bool = setting("weights by mean and deviation of each")
    weight_decay: float = setting("of AdamW", at_least=0)


@record
class HyperLDMSettings(TrainingSettings):
    """Question -> latent."""

    condition: str = setting("what it reads of a question", choices=CONDITIONS)
    denoiser: str = setting("architecture", choices=("v1", "v2"))
    hidden_dim: int = count("width of the denoiser")
    num_blocks: int = count("residual blocks of the denoiser")
    schedule: str = setting(
        "of the noise", choices=("linear", "scaled_linear", "sqrt", "cosine", "quartic")
    )
    prediction: str = setting("what the denoiser predicts", choices=("eps", "v"))
    diffusion_steps: int = count("S, noise levels")
    drop_rate: float = share("of questions that are dropped in training", may_be_zero=True)
    fisher_share: float = share("of the Fisher metric in the loss", may_be_zero=True)
    ema_decay: float = setting("of the averaged parameters", at_least=0, below=1)
    weight_decay: float = setting("of AdamW", at_least=0)
    sampling_steps: int = count("DDIM; DDPM where it is diffusion_steps")
    posterior_variance: float = share("of DDPM: 0 is beta tilde, 1 is beta", may_be_zero=True)
    start_time: float = share(
        "of the steps, of the noise that sampling starts at", may_be_zero=False
    )
    num_samples: int = count("K, whose mean latent is the generated one")
    guidance_scale: float | None = setting("None: chosen on validation tasks")
    few_shot_guidance: tuple[float, ...] = setting(
        "strengths of guidance by the support set's loss", at_least=0, may_be_empty=True
    )


@record
class NoisyHyperCLIPSettings(TrainingSettings):
    """Diffused latents -> the space of questions, which guides HyperLDM from within."""

    condition: str = setting("what it reads of a question", choices=CONDITIONS)
    hidden_dims: tuple[int, ...] = widths("widths of the encoder of latents")
    embed_dim: int = count("width of the common space")
    weight_decay: float = setting("of AdamW", at_least=0)
    ema_decay: float = setting("of the averaged parameters, 0 for none", at_least=0, below=1)
    guidance_scales: tuple[float, ...] = setting("to choose from", above=0)
    ranked: tuple[int, ...] = count("of the samples, how many of the likeliest, to choose from")
    num_samples: int = count("samples to rank")


@record
class TunedSettings(TaskTrainingSettings):
    """HyperLDM trained on by the loss of the networks that it generates."""

    sampling_steps: int = count("of DDIM, through which the gradient goes")
