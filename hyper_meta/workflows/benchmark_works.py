"""What the benchmark measures: a `Work` for every stage, sampler and matrix product."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hyper_meta.core import parallel
from hyper_meta.core.settings import RunSettings, changed
from hyper_meta.core.settings.training import TrainingSettings
from hyper_meta.core.types import SentenceFeatures
from hyper_meta.data.table import TaskTable
from hyper_meta.encoders.folder import bundled_encoder_path, encode_images, load_encoder
from hyper_meta.meta import scoring
from hyper_meta.meta.inner_loop import InnerLoop
from hyper_meta.meta.learners import weights_learner
from hyper_meta.models.generator import GENERATOR, generate_weights
from hyper_meta.preparation import encoding
from hyper_meta.train.loop import Stage
from hyper_meta.train.stages import meta_learning as stages
from hyper_meta.train.stages import passes
from hyper_meta.train.stages.hvae import hvae_stage
from hyper_meta.train.stages.hyperclip import compile_guidance, hyperclip_model, hyperclip_stage
from hyper_meta.train.stages.hyperldm import compile_sampler, hyperldm_stage, sample_tasks
from hyper_meta.train.stages.latent_data import LatentData
from hyper_meta.train.stages.parts import stage_network

# The matrix products that an inner step of HNet is made of, of a batch of b tasks of n examples:
# weights p from the generator's hidden units w and the gradient of those, the adapter's first layer
# and the gradient of its weights.
PRODUCTS = {
    "generator": "bw,wp->bp",
    "generator_gradient": "bp,wp->bw",
    "adapter": "bnd,bdh->bnh",
    "adapter_gradient": "bnd,bnh->bdh",
}
PRODUCT_EXAMPLES = 36  # the median support set, padded


@dataclasses.dataclass(frozen=True)
class Work:
    """amount: of units ("tasks", "steps", "images") that one call of run does, to its end."""

    unit: str
    amount: int
    run: Callable[[], None]


def works(config: RunSettings) -> dict[str, Callable[[dict[str, TaskTable]], Work]]:
    """{name: tables -> Work} of everything that is measured, in order."""
    makers: dict[str, Callable] = {}
    for objective in ("fomaml", "maml", "multitask"):
        makers[f"hnet_{objective}"] = functools.partial(_meta_training, config, "hnet", objective)
    makers["conditional"] = functools.partial(_meta_training, config, "conditional", "multitask")
    for objective in ("fomaml", "maml", "multitask"):
        makers[f"mnet_{objective}"] = functools.partial(_meta_training, config, "mnet", objective)
    for network in ("hnet", "mnet"):
        makers[f"{network}_adaptation"] = functools.partial(_adaptation, config, network)
    for guide in (_hvae, _hyperclip, _hyperldm, _hyperclip_guidance):
        makers[guide.__name__[1:]] = functools.partial(guide, config)
    for name, steps, scale in (
        ("ddpm", config.hyperldm.diffusion_steps, 1.0),
        ("ddpm_guided", config.hyperldm.diffusion_steps, 2.0),
        ("ddim", 50, 1.0),
        ("ddim_guided", 50, 2.0),
    ):
        makers[name] = functools.partial(_sampling, config, steps, scale)
    makers["evaluation"] = functools.partial(_evaluation, config)
    makers["encoding"] = lambda tables: _encoding()
    for name in PRODUCTS:
        makers[f"product_{name}"] = functools.partial(_product, config, name)
    return makers


def _training(stage: Stage, unit: str, units_a_step: int, steps: int) -> Work:
    train = parallel.compile_chunk(stage.step)
    data, xs = parallel.replicate(stage.data), stage.schedule(0, steps)
    key = jax.random.key(0)
    state = parallel.replicate(stage.init(key))

    def run() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(train(state, data, xs, key))

    return Work(unit, units_a_step * steps, run)


def _a_pass(settings: TrainingSettings, table: TaskTable) -> int:
    return -(-len(table.answer_count) // settings.batch_size)


def _meta_training(config: RunSettings, kind: str, objective: str, tables: dict) -> Work:
    """One pass over the training tasks."""
    settings = getattr(config, kind)
    stage = _meta_stage(config, kind, objective, tables)
    return _training(stage, "tasks", settings.batch_size, _a_pass(settings, tables["train"]))


def _meta_stage(config: RunSettings, kind: str, objective: str, tables: dict) -> Stage:
    """The stage of "hnet", "mnet" or "conditional" at its first learning rate."""
    rate = getattr(config, kind).learning_rates[0]
    return stages.learner_stage(
        kind,
        config,
        tables["train"],
        tables["test"],
        name=kind,
        objective=objective,
        learning_rate=rate,
    )


def _hnet(config: RunSettings, tables: dict) -> dict[str, Any]:
    """{"e0", "generator"} of an untrained HNet."""
    stage = _meta_stage(config, "hnet", "multitask", tables)
    return jax.device_get(stage.init(jax.random.key(0)).params)


def _adaptation(config: RunSettings, network: str, tables: dict) -> Work:
    """Every training task adapted once."""
    table, settings = tables["train"], dataclasses.replace(config.latents, repeats=1)
    base = stage_network(config, table)
    if network == "hnet":
        learner, params = stages.hnet_learner(config, base), _hnet(config, tables)
    else:
        stage = _meta_stage(config, "mnet", "multitask", tables)
        learner, params = (
            weights_learner(base),
            jax.device_get(stage.init(jax.random.key(0)).params),
        )
    loop = InnerLoop(settings.num_steps, settings.learning_rates[0])
    adapt = passes.compile_adaptation(config, learner, table, loop, settings=settings, name=network)
    return Work("tasks", len(table.answer_count), lambda: adapt(params))


def _hvae(config: RunSettings, tables: dict) -> Work:
    size = stage_network(config, tables["train"]).num_weights
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((len(tables["train"].answer_count), 1, size), np.float32)
    rate = config.hvae.learning_rates[0]
    stage = hvae_stage(config, "hvae", weights, weights[0, 0], learning_rate=rate)
    return _training(stage, "steps", 1, _a_pass(config.hvae, tables["train"]))


def _guide_stage(config: RunSettings, section: str, tables: dict) -> tuple[Stage, dict[str, Any]]:
    """A guide's stage in the space of an untrained HNet, and that space."""
    make = {"hyperclip": hyperclip_stage, "hyperldm": hyperldm_stage}[section]
    space, num_tasks = _hnet(config, tables), len(tables["train"].answer_count)
    latents = np.random.default_rng(0).normal(size=(num_tasks, 1, config.hnet.latent_dim))
    latents = latents.astype(np.float32)
    data = LatentData(latents, space, GENERATOR, tables["train"], tables["test"])
    rate = getattr(config, section).learning_rates[0]
    return make(config, section, data, learning_rate=rate), space


def _hyperclip(config: RunSettings, tables: dict) -> Work:
    stage, _ = _guide_stage(config, "hyperclip", tables)
    return _training(stage, "steps", 1, _a_pass(config.hyperclip, tables["train"]))


def _hyperclip_guidance(config: RunSettings, tables: dict) -> Work:
    """Every test task guided for ten steps."""
    ten = changed(config, {"hyperclip.guidance.steps": (10,)})
    stage, space = _guide_stage(config, "hyperclip", tables)
    state, questions = stage.init(jax.random.key(0)), tables["test"].questions
    guide_fn = compile_guidance(ten, GENERATOR, questions.pooled.shape[1])
    model = parallel.replicate(hyperclip_model(state.params, state.statistics, space))
    return Work("tasks", len(questions.pooled), lambda: guide_fn(model, questions, 0.01, 0.0, 0))


def _hyperldm(config: RunSettings, tables: dict) -> Work:
    """One pass over the training tasks."""
    stage, _ = _guide_stage(config, "hyperldm", tables)
    size = config.hyperldm.batch_size
    return _training(stage, "tasks", size, _a_pass(config.hyperldm, tables["train"]))


def _sampler(config: RunSettings, steps: int, tables: dict) -> tuple[Callable, dict[str, Any]]:
    """(questions, scale) -> latents [T, 1, Z], and the space they lie in."""
    shorter = changed(config, {"hyperldm.sampling_steps": steps})
    stage, space = _guide_stage(config, "hyperldm", tables)
    state = stage.init(jax.random.key(0))
    ldm = parallel.replicate(
        {"params": state.params, "statistics": state.statistics, "start": space["e0"]}
    )
    sampler = compile_sampler(shorter)

    def sample(questions: SentenceFeatures, scale: float) -> np.ndarray:
        return sample_tasks(sampler, ldm, questions, scale=scale, num_samples=1, seed=0)

    return sample, space


def _sampling(config: RunSettings, steps: int, scale: float, tables: dict) -> Work:
    """One latent of every training task."""
    sample, _ = _sampler(config, steps, tables)
    questions = tables["train"].questions
    return Work("tasks", len(questions.pooled), lambda: sample(questions, scale))


def _evaluation(config: RunSettings, tables: dict) -> Work:
    """A latent of every test task by 50 guided steps, and the score of its network."""
    sample, space = _sampler(config, 50, tables)
    questions = tables["test"].questions
    network = stage_network(config, tables["test"])
    method = scoring.latent_method(network, functools.partial(generate_weights, GENERATOR))
    score = passes.compile_configured_pass(config, scoring.scores_of(method), tables["test"])
    params = parallel.replicate(space)
    return Work("tasks", len(questions.pooled), lambda: score(params, sample(questions, 2.0)))


def _product(config: RunSettings, name: str, tables: dict) -> Work:
    """One product alone, as large as in a training step."""
    network = stage_network(config, tables["train"])
    sizes = {
        "b": config.hnet.batch_size,
        "w": config.hnet.hidden_dims[-1],
        "p": network.num_weights,
        "n": PRODUCT_EXAMPLES,
        "d": network.embed_dim,
        "h": config.network.hidden_dim,
    }
    formula = PRODUCTS[name]
    operands = parallel.replicate(
        [
            np.ones([sizes[axis] for axis in axes], np.float32)
            for axes in formula.split("->")[0].split(",")
        ]
    )
    rows = np.zeros(jax.local_device_count())
    run = parallel.compile_map(lambda operands, _, __: _corner(jnp.einsum(formula, *operands)))
    return Work("products", len(rows), lambda: run(operands, None, rows))


def _corner(product: jax.Array) -> jax.Array:
    """[1]: what there is to fetch of a product that was computed whole."""
    return lax.optimization_barrier(product).reshape(-1)[:1]


def _encoding() -> Work:
    """A few batches of the bundled encoder."""
    encoder = load_encoder(bundled_encoder_path())
    size = encoding.batch_size(encoder) * jax.local_device_count()
    run = encoding.compile_encoding(encoder, encode_images)
    pixels = np.zeros((size, *[encoder.config.image_size] * 2, 3), np.float32)

    def encode() -> None:
        for _ in range(8):
            run(pixels, size)

    return Work("images", 8 * size, encode)
