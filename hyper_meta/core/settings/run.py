"""The settings of a run, one record for each section of configs/digits_vqa.py.

Defaults are in configs/ alone. A value that names an entry of a registry of a higher floor has its
choices here, so that a mistake is answered before that floor is imported; a test holds them equal
to the registry.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from hyper_meta.core.arguments import MAX_SEED
from hyper_meta.core.settings.rules import count, rate, setting, share, widths
from hyper_meta.core.settings.training import (
    AdaptedTrainingSettings,
    ConditionalSettings,
    DistilledSettings,
    FilmSettings,
    GeneratorsSettings,
    HNetSettings,
    HyperCLIPSettings,
    HyperLDMSettings,
    LanguageSettings,
    NoisyHyperCLIPSettings,
    TrainingSettings,
    TunedSettings,
    record,
)

GUIDES = (
    *("conditional", "conditional_maml", "film", "conditional_tokens", "film_tokens"),
    *("generators", "distilled", "hnet_language", "ridge", "language_ridge"),
    *("hnet_hyperclip", "hvae_hyperclip", "language_hyperclip"),
    *("hnet_hyperldm", "hvae_hyperldm", "hnet_hyperldm_tokens", "language_hyperldm_tokens"),
    *("language_tuned", "hnet_noisy_hyperclip", "language_noisy_hyperclip"),
    *("hnet_ranked", "language_ranked"),
)
OBJECTIVES = ("multitask", "fomaml", "maml")


@record
class NetworkSettings:
    """What is generated. A registered network may have settings of its own beside these."""

    is_open: ClassVar[bool] = True
    name: str = setting("in networks.registry; others than the built-in ones are registered")
    hidden_dim: int = count("hidden units of adapter and two_layers")
    rank: int = count("of low_rank")
    blend: float = setting("logits = base + blend * (adapted - base)")


@record
class BatchingSettings:
    """How ragged tasks become batches of a few fixed shapes."""

    num_layouts: int = count("layouts of a training batch, each compiled")
    num_groups: int = count("groups of tasks of like size in a training batch")
    num_shapes: int = count("shapes of batches that are adapted or evaluated")
    max_support: int = count("support examples of a task that a training step reads")
    max_query: int = count("query examples of a task that a training step reads")
    feature_noise: float = setting("noise on image features, as a share of their size", at_least=0)
    max_examples: int = count("padded examples of an evaluation batch")


@record
class ReaderSettings:
    """The transformer that reads the tokens of a sentence, of every model that has one."""

    width: int = count("of its states, a multiple of num_heads")
    num_blocks: int = count("transformer blocks")
    num_heads: int = count("of the attention")


@record
class AdaptationSettings:
    """Every training task adapted a few times."""

    repeats: int = count("R, adaptations of each task")
    smallest_share: float = share("of a task's images, in one adaptation", may_be_zero=False)
    num_steps: int = count("steps of an adaptation")
    learning_rates: tuple[float, ...] = rate("the best on validation tasks is taken")


@record
class LatentsSettings(AdaptationSettings):
    """The latent data sets."""

    base: str = setting(
        "the method whose space is HNet's", choices=tuple(f"hnet_{name}" for name in OBJECTIVES)
    )
    pull: float = setting("weight of 1/2 ||e - e0||^2", at_least=0)
    nearest: str = setting(
        "the space whose latents of the nearest sentences are a control",
        choices=("hnet", "hvae", "language"),
    )


@record
class WeightsSettings(AdaptationSettings):
    """The data set of adapted weights that HVAE learns."""

    base: str = setting(
        "the method that adaptation starts from",
        choices=tuple(f"mnet_{name}" for name in OBJECTIVES),
    )


@record
class HVAESettings(TrainingSettings):
    """An autoencoder of adapted weights."""

    weights: WeightsSettings
    latent_dim: int = count("Z")
    hidden_dims: tuple[int, ...] = widths("widths of encoder and decoder")
    beta: float = setting("weight of the KL divergence", at_least=0)
    standardise: bool = setting("weights by the deviation of each")
    components: int = count("principal components of the weights that it sees")


@record
class EvaluateSettings:
    guidance_scales: tuple[float, ...] = setting(
        "to choose from; 0, which ignores the sentence, has a row of its own", above=0
    )
    few_shot_steps: tuple[int, ...] = setting("numbers of steps to choose from", at_least=0)
    few_shot_rates: tuple[float, ...] = rate("to choose from")
    shot_steps: tuple[int, ...] = setting("numbers of steps with few examples", at_least=0)
    shots: tuple[int, ...] = count("examples of each answer", may_be_empty=True)
    few_shot_guides: tuple[str, ...] = setting(
        "language methods that few-shot rows start from", choices=GUIDES, may_be_empty=True
    )
    control_guides: tuple[str, ...] = setting(
        "language methods that have controls", choices=GUIDES, may_be_empty=True
    )
    num_resamples: int = setting("of the bootstrap, whose 95% intervals need some", at_least=40)


@record
class OwnTasksSettings:
    """What becomes of a folder of tasks, where its table does not say it."""

    test_share: float = share(
        "of the concepts, for test tasks", may_be_zero=False, may_be_one=False
    )
    query_share: float = share(
        "of a task's examples of each answer, for its query set",
        may_be_zero=False,
        may_be_one=False,
    )
    template: str = setting("an answer sentence with {} in the answer's place")
    seed: int = setting("of what is drawn", at_least=0, at_most=MAX_SEED)
    shuffle: bool = setting("the examples of a task; else they stay in the order of the table")


@record
class RunSettings:
    """Everything that a run reads from its configuration."""

    seed: int = setting("of the first seed", at_least=0, at_most=MAX_SEED)
    num_seeds: int = count("the run is repeated with seed, seed + 1, ...")
    dataset: str = setting(
        "its name",
        choices=("digits_vqa", "meta_vqa", "meta_vqa_published", "own_tasks", "precomputed"),
    )
    data_dir: str = setting("where data sets and their features are")
    validation_share: float = share("of the training tasks", may_be_zero=False, may_be_one=False)
    encoder: str = setting(
        '"bundled", a folder, or a name on the Hub; none: precomputed features of an unknown one',
        may_be_empty=True,
    )
    encoder_dtype: str = setting("that the encoder computes in", choices=("float32", "bfloat16"))
    image_resize: str = setting("how an image becomes a square", choices=("crop", "square"))
    question_tokens: bool = setting("whether the states of a question's tokens are encoded too")
    question_encoder: str = setting(
        'a folder, a name on the Hub or "all-MiniLM-L6-v2"; none: the text tower of encoder',
        may_be_empty=True,
    )
    question_layer: int = setting("of question_encoder, of its tokens; -1: the last", at_least=-1)
    question_prefix: str = setting("of every question, for question_encoder", may_be_empty=True)
    skip_corrupt_images: bool = setting("else the first one is an error")
    compilation_cache: str = setting("folder of compiled programs, or none", may_be_empty=True)
    methods: tuple[str, ...] = setting("trained and scored, with all that they need")
    checkpoint_every: int = count("chunks from one checkpoint to the next")
    network: NetworkSettings
    reader: ReaderSettings
    batching: BatchingSettings
    hnet: HNetSettings
    mnet: AdaptedTrainingSettings
    conditional: ConditionalSettings
    film: FilmSettings
    conditional_tokens: LanguageSettings
    film_tokens: FilmSettings
    generators: GeneratorsSettings
    distilled: DistilledSettings
    language: DistilledSettings
    latents: LatentsSettings
    hvae: HVAESettings
    hyperclip: HyperCLIPSettings
    hyperldm: HyperLDMSettings
    hyperldm_tokens: HyperLDMSettings
    tuned: TunedSettings
    noisy_hyperclip: NoisyHyperCLIPSettings
    evaluate: EvaluateSettings
    own_tasks: OwnTasksSettings | None = None

    def contradictions(self) -> Iterator[str]:
        """One line for each pair of settings that do not go together."""
        last = self.seed + self.num_seeds - 1
        if last > MAX_SEED:
            yield (
                f"num_seeds={self.num_seeds} from seed={self.seed} ends at seed {last}: "
                f"seeds from 0 to {MAX_SEED} are expected"
            )
        yield from _of_own_tasks(self.dataset, self.own_tasks)
        if not self.encoder and self.dataset != "precomputed":
            yield f"encoder is empty: dataset={self.dataset} has images that one has to encode"
        if not self.question_encoder and (self.question_layer != -1 or self.question_prefix):
            yield (
                f"question_layer={self.question_layer} and question_prefix="
                f"{self.question_prefix!r} are of a sentence encoder: name one as "
                "question_encoder, or leave them out"
            )
        if not self.distilled.teacher_share:
            yield (
                "distilled.teacher_share=0.0 has no teacher: a share of the loss above 0 is "
                "expected, and conditional_tokens is the method without one"
            )
        for name in ("conditional_tokens", "generators", "distilled", "language"):
            section = getattr(self, name)
            if set(section.strengths) != {1.0} and not section.drop_rate:
                yield (
                    f"{name}.strengths={section.strengths} go from e0, which {name}.drop_rate=0.0 "
                    "does not train: a share above 0 is expected"
                )
        for name in ("hyperldm", "hyperldm_tokens"):
            yield from _of_sampling(name, getattr(self, name))
        if self.reader.width % self.reader.num_heads:
            yield (
                f"reader.width={self.reader.width} is no multiple of reader.num_heads="
                f"{self.reader.num_heads}"
            )
        best, drawn = max(self.noisy_hyperclip.ranked), self.noisy_hyperclip.num_samples
        if best > drawn:
            yield (
                f"noisy_hyperclip.ranked has {best}, of noisy_hyperclip.num_samples={drawn} "
                "samples: as many at most are expected"
            )
        most, steps = self.hyperldm_tokens.diffusion_steps, self.tuned.sampling_steps
        if steps > most:
            yield (
                f"tuned.sampling_steps={steps} is more than hyperldm_tokens.diffusion_steps={most}"
            )


def _of_own_tasks(dataset: str, settings: OwnTasksSettings | None) -> Iterator[str]:
    if dataset == "own_tasks" and settings is None:
        yield (
            "dataset=own_tasks has settings of its own, a section own_tasks: take "
            "configs/own_tasks.py as a start"
        )
    if settings and "{}" not in settings.template:
        yield (
            f"own_tasks.template={settings.template!r}, a sentence with {{}} in the answer's place "
            'is expected, such as "the answer is {}"'
        )


def _of_sampling(name: str, settings: HyperLDMSettings) -> Iterator[str]:
    """The contradictions of a section of HyperLDM."""
    most, steps = settings.diffusion_steps, settings.sampling_steps
    if steps > most:
        yield f"{name}.sampling_steps={steps} is more than {name}.diffusion_steps={most}"
    if steps < most and settings.posterior_variance:
        yield (
            f"{name}.posterior_variance is of DDPM, which takes all "
            f"{name}.diffusion_steps={most}: set {name}.sampling_steps to that"
        )
