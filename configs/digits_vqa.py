"""Digits-VQA, the full run: five seeds, the table of the README.

    hyper-meta run --config configs/digits_vqa.py --workdir runs/digits_vqa
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.num_seeds = 5  # the run is repeated with seed, seed + 1, ...
    config.dataset = "digits_vqa"
    config.data_dir = "~/.cache/hyper_meta"
    config.encoder = "bundled"  # or a folder in the Hugging Face format

    config.adapter = ConfigDict({"hidden_dim": 64})

    # Ragged tasks become batches of a few fixed shapes.
    config.batching = ConfigDict()
    config.batching.num_shapes = 4
    config.batching.max_support = 128  # examples of a task that a training step reads
    config.batching.max_query = 64
    config.batching.feature_noise = 0.3  # on image features in training, a share of their size
    config.batching.max_examples = 4096  # padded examples of an evaluation batch

    # HNet: latent -> adapter weights.
    config.generator = ConfigDict()
    config.generator.objective = "maml"  # "multitask", "fomaml" or "maml"
    config.generator.latent_dim = 128
    config.generator.hidden_dims = (128, 128, 128)
    config.generator.inner_steps = 10
    config.generator.inner_learning_rate = 1.0
    config.generator.learning_rate = 1e-3
    config.generator.clip_norm = 10.0
    config.generator.batch_size = 32  # tasks
    config.generator.num_steps = 1100
    config.generator.chunk_steps = 110

    # The conditional hypernetwork: question -> adapter weights.
    config.conditional = ConfigDict()
    config.conditional.hidden_dims = (128, 128, 128)
    config.conditional.learning_rate = 1e-3
    config.conditional.clip_norm = 10.0
    config.conditional.batch_size = 32
    config.conditional.num_steps = 1100
    config.conditional.chunk_steps = 110

    # The latent data set: every training task adapted a few times.
    config.latents = ConfigDict()
    config.latents.repeats = 5
    config.latents.smallest_share = 2 / 3  # of a task's images, in one repeat
    config.latents.num_steps = 10
    config.latents.learning_rate = 1.0
    config.latents.pull = 0.0  # weight of 1/2 ||e - e0||^2

    # HyperLDM: question -> latent.
    config.hyperldm = ConfigDict()
    config.hyperldm.denoiser = "v2"
    config.hyperldm.hidden_dim = 256
    config.hyperldm.num_blocks = 2
    config.hyperldm.prediction = "v"
    config.hyperldm.diffusion_steps = 1000
    config.hyperldm.drop_rate = 0.2
    config.hyperldm.ema_decay = 0.999
    config.hyperldm.learning_rate = 1e-3
    config.hyperldm.weight_decay = 0.01
    config.hyperldm.batch_size = 128
    config.hyperldm.num_steps = 6000
    config.hyperldm.chunk_steps = 500
    config.hyperldm.sampling_steps = 50  # DDIM; all diffusion_steps: DDPM
    config.hyperldm.num_samples = 8  # whose mean latent is the generated one
    config.hyperldm.guidance_scale = placeholder(float)  # None: chosen on validation tasks

    config.evaluate = ConfigDict()
    config.evaluate.guidance_scales = (0.0, 1.0, 1.5, 2.0, 4.0)
    config.evaluate.few_shot_steps = 50
    config.evaluate.num_resamples = 10_000  # of the bootstrap

    config.checkpoint_every = 2  # chunks
    return config
