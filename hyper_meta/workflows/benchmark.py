"""How fast every stage is on this machine, at the sizes of Meta-VQA: `hyper-meta benchmark`.

Work is measured warm, compilation apart, and set beside the matrix products that it must do and the
speed of one large matrix product here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from tqdm import tqdm

from hyper_meta.core import parallel
from hyper_meta.core.errors import UserError
from hyper_meta.core.files import write_json
from hyper_meta.core.settings import BenchmarkSettings, RunSettings, changed
from hyper_meta.core.settings.run import TrainingSettings
from hyper_meta.data import precomputed
from hyper_meta.data.table import TaskTable, build_table
from hyper_meta.data.tasks import Task
from hyper_meta.diffusion.classifier_guidance import GENERATOR, generate_weights
from hyper_meta.encoders.folder import bundled_encoder_path, encode_images, load_encoder
from hyper_meta.eval.tables import as_text
from hyper_meta.meta import scoring
from hyper_meta.meta.inner_loop import InnerLoop
from hyper_meta.meta.learners import weights_learner
from hyper_meta.preparation import encoding
from hyper_meta.train.loop import Stage
from hyper_meta.train.stages import meta_learning as stages
from hyper_meta.train.stages.hvae import hvae_stage
from hyper_meta.train.stages.hyperclip import compile_guidance, hyperclip_model, hyperclip_stage
from hyper_meta.train.stages.hyperldm import compile_sampler, hyperldm_stage, sample_tasks
from hyper_meta.workflows.flops import Products, count_products

COMPILED = "/jax/core/compile/backend_compile_duration"
WARM_RUNS, ENOUGH_SECONDS = 3, 20.0
HEADING = "work,a second,GFLOP/s,of peak,GB/s,peak GiB,programs,compiling".split(",")
PEAK_RUNS = 5  # the first compiles
PEAK_SIZE = {"cpu": 2048}  # of the square matrices whose product is the machine's peak
# (support, query, answers) of every 30th of Meta-VQA's 870 training tasks, in order of size.
SIZES = (
    *((15, 6, 4), (15, 7, 5), (16, 7, 4), (16, 8, 6), (17, 8, 8), (18, 9, 4), (19, 9, 4)),
    *((20, 9, 5), (20, 11, 9), (22, 10, 7), (24, 9, 9), (25, 10, 7), (26, 11, 6), (27, 12, 10)),
    *((29, 13, 8), (33, 13, 12), (35, 15, 5), (37, 17, 8), (40, 19, 6), (46, 20, 5), (49, 24, 8)),
    *((58, 24, 9), (66, 29, 12), (78, 36, 11), (91, 40, 7), (111, 48, 15), (139, 60, 12)),
    *((204, 88, 19), (359, 163, 56)),
)
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
EMBED_DIM, NUM_IMAGES, NUM_TASKS, NUM_TEST = 384, 64_665, 870, 373


@dataclasses.dataclass(frozen=True)
class Work:
    """amount: of units ("tasks", "steps", "images") that one call of run does, to its end."""

    unit: str
    amount: int
    run: Callable[[], None]


def benchmark(config: BenchmarkSettings, only: list[str], out: Path | None) -> None:
    """Measures every work whose name holds one of only (all, where it is empty), prints a table and
    writes the figures to out, after each. Raises UserError where no work is meant."""
    makers = works(config)
    names = [name for name in makers if not only or any(part in name for part in only)]
    if not names:
        raise UserError(f"--only {' '.join(only)}: expected parts of {', '.join(makers)}")
    jax.config.update("jax_enable_compilation_cache", False)
    described = machine()
    tables, source = load_tables(config)
    rows: dict[str, Any] = {}
    for name in (bar := tqdm(names, desc="benchmark", unit="work")):
        bar.set_postfix_str(name)
        rows[name] = measure(makers[name](tables), described["peak_flops_per_second"])
        jax.clear_caches()
        if out is not None:
            write_json(out, {"machine": described, "data": source, "work": rows})
    print(as_text(_table(rows)))
    print("\n" + ", ".join(f"{key} {value}" for key, value in described.items()))
    print(f"peak: {described['peak_flops_per_second'] / 1e9:.1f} GFLOP/s; data: {source}")


def machine() -> dict[str, Any]:
    """The machine in words and figures, with the FLOP/s of a large float32 matrix product on all
    its devices."""
    device = parallel.device()
    return {
        "device": device.device_kind,
        "devices": jax.local_device_count(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "processor": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "peak_flops_per_second": _peak(PEAK_SIZE.get(device.platform, 8192)),
    }


def _peak(size: int) -> float:
    squares = np.ones((jax.local_device_count(), size, size), np.float32)
    product = parallel.compile_map(lambda _, __, x: jnp.einsum("bij,bjk->bik", x, x)[:, :1, :1])
    fastest = min(_seconds(lambda: product(None, None, squares)) for _ in range(PEAK_RUNS))
    return 2.0 * squares.size * size / fastest


def measure(work: Work, peak: float) -> dict[str, Any]:
    """The figures of a work: see the table's headings; peak in FLOP/s."""
    compilations: list[float] = []

    def note(event: str, seconds: float, **_: Any) -> None:
        if event == COMPILED:
            compilations.append(seconds)

    calls: list[Products] = []
    jax.monitoring.register_event_duration_secs_listener(note)
    _reset_peak_memory()
    with parallel.observed(lambda *call: calls.append(_count(*call))):
        work.run()
    first, compiling = len(compilations), sum(compilations)
    times: list[float] = []
    while len(times) < WARM_RUNS and sum(times) < ENOUGH_SECONDS:
        times.append(_seconds(work.run))
    jax.monitoring.unregister_event_duration_listener(note)
    memory = _peak_memory()
    seconds, flops = statistics.median(times), sum(call.flops for call in calls)
    return {
        "unit": work.unit,
        "per_second": work.amount / seconds,
        "seconds": seconds,
        "runs": len(times),
        "flops": flops,
        "share_of_peak": flops / seconds / peak,
        "bytes": sum(call.bytes for call in calls),
        "peak_memory_bytes": memory,
        "compilations": first,
        "compilations_when_warm": len(compilations) - first,
        "compile_seconds": compiling,
    }


def _seconds(run: Callable) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _count(fn: Callable, in_axes: Any, args: tuple) -> Products:
    """The matrix products of a call on all devices."""
    mapped = jax.vmap(fn, in_axes=in_axes, axis_name=parallel.AXIS)
    shared = args[2] if len(args) == 5 else None  # of a chunk of steps: the shape of each batch
    branches = None
    if isinstance(shared, np.ndarray):
        branches = np.bincount(shared) / len(shared)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), args)
    return count_products(mapped, *shapes, branches=branches)


def _reset_peak_memory() -> None:
    # Linux forgets the peak of a process where 5 is written here.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory() -> int:
    """Of the first device where it keeps count, else of this process."""
    counted = parallel.device().memory_stats()
    if counted:
        return counted["peak_bytes_in_use"]
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _table(rows: dict[str, dict[str, Any]]) -> list[list[str]]:
    lines = [HEADING]
    for name, row in rows.items():
        figures = [
            f"{row['per_second']:,.4g} {row['unit']}",
            f"{row['flops'] / row['seconds'] / 1e9:.1f}",
            f"{100 * row['share_of_peak']:.0f}%",
            f"{row['bytes'] / row['seconds'] / 1e9:.1f}",
            f"{row['peak_memory_bytes'] / 2**30:.1f}",
            f"{row['compilations']} + {row['compilations_when_warm']}",
            f"{row['compile_seconds']:.1f} s",
        ]
        lines.append([name, *figures])
    return lines


def load_tables(config: BenchmarkSettings) -> tuple[dict[str, TaskTable], str]:
    """{"train" | "test": table} and where they come from: the precomputed features of
    config.data_dir, or, where there is no such folder, random ones for tasks of the same sizes, or
    for config.more of them."""
    folder = Path(config.data_dir).expanduser()
    more_tasks, more_answers = config.more.tasks, config.more.answers
    if folder.exists() and more_tasks == more_answers == 1:
        tasks, features = precomputed.load(
            folder, validation_share=config.validation_share, seed=config.seed
        )
        tasks["train"] += tasks.pop("validation")
        joined = {
            "image_ids": features.image_ids,
            "image_features": features.image_features,
            "sentences": features.sentences,
            "sentence_features": features.sentence_features,
        }
        return {name: build_table(part, **joined) for name, part in tasks.items()}, str(folder)
    rng = np.random.default_rng(config.seed)
    images = rng.normal(size=(NUM_IMAGES, EMBED_DIM)).astype(np.float32)
    tables = {"train": NUM_TASKS, "test": NUM_TEST}
    return {
        name: _random_table(rng, images, number * more_tasks, more_answers)
        for name, number in tables.items()
    }, f"random tasks of Meta-VQA's sizes, {more_tasks} x as many, {more_answers} x as many answers"


def _random_table(
    rng: np.random.Generator, images: np.ndarray, number: int, more_answers: int
) -> TaskTable:
    tasks, sentences = [], []
    for row in range(number):
        support, query, answers = SIZES[row % len(SIZES)]
        answers *= more_answers
        parts = [
            tuple((str(rng.integers(len(images))), int(rng.integers(answers))) for _ in range(size))
            for size in (support, query)
        ]
        names = tuple(map(str, range(answers)))
        tasks.append(Task(f"question {row}", names, f"answer {row} {{}}", "", "", *parts))
        sentences += [tasks[-1].sentence, *tasks[-1].prompts()]
    return build_table(
        tasks,
        image_ids=[str(row) for row in range(len(images))],
        image_features=images,
        sentences=sentences,
        sentence_features=rng.normal(size=(len(sentences), EMBED_DIM)).astype(np.float32),
    )


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
    make = getattr(stages, f"{kind}_stage")
    rate = getattr(config, kind).learning_rates[0]
    return make(
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
    base = stages.stage_network(config, table)
    if network == "hnet":
        learner, params = stages.hnet_learner(config, base), _hnet(config, tables)
    else:
        stage = _meta_stage(config, "mnet", "multitask", tables)
        learner, params = (
            weights_learner(base),
            jax.device_get(stage.init(jax.random.key(0)).params),
        )
    loop = InnerLoop(settings.num_steps, settings.learning_rates[0])
    adapt = stages.compile_adaptation(config, learner, table, loop, settings=settings, name=network)
    return Work("tasks", len(table.answer_count), lambda: adapt(params))


def _hvae(config: RunSettings, tables: dict) -> Work:
    size = stages.stage_network(config, tables["train"]).num_weights
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((len(tables["train"].answer_count), 1, size), np.float32)
    rate = config.hvae.learning_rates[0]
    stage = hvae_stage(config, "hvae", weights, weights[0, 0], learning_rate=rate)
    return _training(stage, "steps", 1, _a_pass(config.hvae, tables["train"]))


def _guide_stage(config: RunSettings, section: str, tables: dict) -> tuple[Stage, dict[str, Any]]:
    """A guide's stage in the space of an untrained HNet, and that space."""
    make, decoder = {
        "hyperclip": (hyperclip_stage, {"factors": GENERATOR}),
        "hyperldm": (hyperldm_stage, {"generate": functools.partial(generate_weights, GENERATOR)}),
    }[section]
    space, num_tasks = _hnet(config, tables), len(tables["train"].answer_count)
    latents = np.random.default_rng(0).normal(size=(num_tasks, 1, config.hnet.latent_dim))
    stage = make(
        config,
        section,
        latents=latents.astype(np.float32),
        space=space,
        tables=(tables["train"], tables["test"]),
        learning_rate=getattr(config, section).learning_rates[0],
        **decoder,
    )
    return stage, space


def _hyperclip(config: RunSettings, tables: dict) -> Work:
    stage, _ = _guide_stage(config, "hyperclip", tables)
    return _training(stage, "steps", 1, _a_pass(config.hyperclip, tables["train"]))


def _hyperclip_guidance(config: RunSettings, tables: dict) -> Work:
    """Every test task guided for ten steps."""
    ten = changed(config, {"hyperclip.guidance.steps": (10,)})
    stage, space = _guide_stage(config, "hyperclip", tables)
    state, questions = stage.init(jax.random.key(0)), np.asarray(tables["test"].question_features)
    guide_fn = compile_guidance(ten, GENERATOR, questions.shape[1])
    model = parallel.replicate(hyperclip_model(state.params, state.statistics, space))
    return Work("tasks", len(questions), lambda: guide_fn(model, questions, 0.01, 0.0, 0))


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

    def sample(questions: np.ndarray, scale: float) -> np.ndarray:
        return sample_tasks(sampler, ldm, questions, scale=scale, num_samples=1, seed=0)

    return sample, space


def _sampling(config: RunSettings, steps: int, scale: float, tables: dict) -> Work:
    """One latent of every training task."""
    sample, _ = _sampler(config, steps, tables)
    questions = np.asarray(tables["train"].question_features)
    return Work("tasks", len(questions), lambda: sample(questions, scale))


def _evaluation(config: RunSettings, tables: dict) -> Work:
    """A latent of every test task by 50 guided steps, and the score of its network."""
    sample, space = _sampler(config, 50, tables)
    questions = np.asarray(tables["test"].question_features)
    network = stages.stage_network(config, tables["test"])
    method = scoring.latent_method(network, functools.partial(generate_weights, GENERATOR))
    score = stages.compile_pass(config, scoring.scores_of(method), tables["test"])
    params = parallel.replicate(space)
    return Work("tasks", len(questions), lambda: score(params, sample(questions, 2.0)))


def _product(config: RunSettings, name: str, tables: dict) -> Work:
    """One product alone, as large as in a training step."""
    network = stages.stage_network(config, tables["train"])
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
