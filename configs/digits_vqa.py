"""Digits-VQA, the full run: five seeds, the table of the README.

hyper-meta run --config configs/digits_vqa.py --workdir runs/digits_vqa
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# Methods that read the tokens of a question, or build on one that does.
OF_TOKENS = (
    *("conditional_tokens", "film_tokens", "generators", "distilled", "hnet_language"),
    *("language_ridge", "language_hyperclip", "hnet_hyperldm_tokens"),
    *("language_hyperldm_tokens", "language_tuned", "language_noisy_hyperclip"),
    *("language_ranked", "hnet_noisy_hyperclip"),
)


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.num_seeds = 5  # the run is repeated with seed, seed + 1, ...
    config.dataset = "digits_vqa"
    config.data_dir = "~/.cache/hyper_meta"
    config.validation_share = 0.15  # of the training tasks, for data sets that have none
    config.encoder = "bundled"  # or a folder in the Hugging Face format, or a name on the Hub
    config.encoder_dtype = "float32"  # or "bfloat16": the precision of the encoder's computation
    config.image_resize = "crop"  # the encoder's own; or "square": the whole image is squeezed
    # What reads questions: "" the encoder's own text tower; or a sentence encoder, by a name on the
    # Hub, a folder, or "all-MiniLM-L6-v2" where its package is installed (encoders/README.md).
    config.question_encoder = ""
    config.question_layer = -1  # of a sentence encoder, of its tokens: the last, or the k-th
    config.question_prefix = ""  # of a sentence encoder that was trained with one: "query: " of E5
    config.question_tokens = True  # False: a question is read as one vector, not word by word
    config.skip_corrupt_images = False  # True leaves them out, False refuses the first one

    config.compilation_cache = "~/.cache/hyper_meta/compiled"  # "" for no cache
    config.methods = (
        "references",
        *("mnet_multitask", "mnet_fomaml", "mnet_maml"),
        *("hnet_multitask", "hnet_fomaml", "hnet_maml"),
        *("conditional", "conditional_maml", "film", "conditional_tokens", "film_tokens"),
        *("generators", "distilled", "hnet_language", "ridge", "language_ridge"),
        *("hnet_hyperclip", "hvae_hyperclip", "language_hyperclip"),
        *("hnet_hyperldm", "hvae_hyperldm", "hnet_hyperldm_tokens", "language_hyperldm_tokens"),
        *("language_tuned", "hnet_noisy_hyperclip", "language_noisy_hyperclip", "language_ranked"),
        *("nearest_latent", "nearest_weights", "questions"),
    )

    # What is generated: a network on the image features.
    config.network = ConfigDict()
    config.network.name = "adapter"  # or "low_rank", "two_layers", or one of yours
    config.network.hidden_dim = 64  # of "adapter" and "two_layers"
    config.network.rank = 8  # of "low_rank"
    config.network.blend = 1.0  # logits = CLIP's + blend * (adapted - CLIP's)

    # The transformer that reads the tokens of a question, wherever `condition` is "tokens".
    config.reader = ConfigDict()
    config.reader.width = 128
    config.reader.num_blocks = 2
    config.reader.num_heads = 4

    # Ragged tasks are padded to batches of a few fixed shapes. A training batch has one of a few
    # layouts. A layout divides it into groups of tasks of similar size (fewer groups where their
    # number does not divide the batch), each padded to a shape of its own. Every group of every
    # layout is compiled.
    config.batching = ConfigDict()
    config.batching.num_layouts = 4
    config.batching.num_groups = 1
    config.batching.num_shapes = 4  # of the batches of adaptation and evaluation
    config.batching.max_support = 128  # the most examples of a task in a training step
    config.batching.max_query = 64
    config.batching.feature_noise = 0.3  # of image features in training, as a share of their size
    config.batching.max_examples = 4096  # padded examples of an evaluation batch

    # Each of several learning_rates is trained, and the best on validation tasks is kept.
    training = {"learning_rates": (1e-3,), "clip_norm": 10.0, "batch_size": 32}
    training |= {"num_steps": 1760, "chunk_steps": 110}
    training |= {"ema_decay": 0.99, "patience": 5}  # 0: no moving average, no early end

    # HNet: latent -> weights. The inner loop is that of MAML and FOMAML.
    config.hnet = ConfigDict(training)
    config.hnet.latent_dim = 128
    config.hnet.hidden_dims = (128, 128, 128)
    config.hnet.inner_steps = 10
    config.hnet.inner_learning_rate = 1.0

    # MNet: the weights themselves.
    config.mnet = ConfigDict(training)
    config.mnet.learning_rates = (1e-2,)
    config.mnet.inner_steps = 10
    config.mnet.inner_learning_rate = 10.0

    # The conditional hypernetwork: question -> weights.
    config.conditional = ConfigDict(training)
    config.conditional.learning_rates = (3e-3,)
    config.conditional.hidden_dims = (128, 128, 128)
    config.conditional.standardise = True  # questions by mean and deviation of those of training
    config.conditional.inner_steps = 5
    config.conditional.inner_learning_rate = 0.1

    # FiLM: question -> scale and shift of the hidden units of one adapter.
    config.film = ConfigDict(training)
    config.film.learning_rates = (3e-3,)
    config.film.condition = "pooled"  # or "tokens"
    config.film.hidden_dims = (128,)
    config.film.standardise = True

    # The same from the tokens of the question: sentence -> latent -> weights.
    config.conditional_tokens = ConfigDict(training)
    config.conditional_tokens.condition = "tokens"
    config.conditional_tokens.latent_dim = 128
    config.conditional_tokens.hidden_dims = (128, 128)
    config.conditional_tokens.objective = "maml"  # or "fomaml"
    config.conditional_tokens.adapted_share = 0.0  # of the loss, after inner steps from the start
    config.conditional_tokens.inner_steps = 5
    config.conditional_tokens.inner_learning_rate = 1.0
    config.conditional_tokens.drop_rate = 0.0  # of sentences in training, so that e0 is learnt
    config.conditional_tokens.strengths = (1.0,)  # best; at 1 what is read, at 0 e0
    config.film_tokens = ConfigDict(config.film)
    config.film_tokens.learning_rates = (1e-3,)
    config.film_tokens.condition = "tokens"

    # Several of them side by side, whose log-probabilities are averaged.
    config.generators = ConfigDict(config.conditional_tokens)
    config.generators.num_members = 6

    # One generator that learns what they answer, for the training sentences and for new ones that
    # are put together from their words.
    config.distilled = ConfigDict(config.conditional_tokens)
    config.distilled.teacher_share = 0.7  # of the loss; the rest is of labels
    config.distilled.recombined_share = 0.5  # of tasks, asked in a new sentence
    config.distilled.most_recombined = 20  # new sentences made of each training sentence

    # HNet started by the sentence: a latent space that was made along with language.
    # It learns from the generators too; with a teacher_share of 0 it has no teacher.
    config.language = ConfigDict(config.distilled)
    config.language.update(adapted_share=0.5, drop_rate=0.1)

    # The latent data sets: every training task adapted a few times.
    config.latents = ConfigDict()
    config.latents.base = "hnet_maml"  # the method whose latent space is HNet's
    config.latents.repeats = 5
    config.latents.smallest_share = 2 / 3  # of a task's images, in each repeat
    config.latents.num_steps = 10
    config.latents.learning_rates = (1.0, 10.0)  # the best on validation tasks
    config.latents.pull = 0.0  # weight of 1/2 ||e - e0||^2
    config.latents.nearest = "language"  # the space of the control "nearest_latent"

    # HVAE: an autoencoder of networks that were adapted to the training tasks.
    config.hvae = ConfigDict()
    config.hvae.weights = ConfigDict()
    config.hvae.weights.base = "mnet_maml"  # the method whose adapter the adaptation starts from
    config.hvae.weights.repeats = 5
    config.hvae.weights.smallest_share = 2 / 3
    config.hvae.weights.num_steps = 50
    config.hvae.weights.learning_rates = (1.0, 10.0)
    config.hvae.latent_dim = 128
    config.hvae.hidden_dims = (128, 128)
    config.hvae.beta = 1.0  # weight of the KL divergence
    config.hvae.standardise = True  # by the deviation of each weight
    config.hvae.components = 128  # the number of principal components of the weights, its input
    config.hvae.learning_rates = (1e-3,)
    config.hvae.batch_size = 64
    config.hvae.num_steps = 2000
    config.hvae.chunk_steps = 250

    # HyperCLIP: weights -> the space of questions; guidance moves a latent from e0.
    config.hyperclip = ConfigDict()
    config.hyperclip.hidden_dims = (128, 128)
    config.hyperclip.standardise = True  # by mean and deviation of each weight
    config.hyperclip.learning_rates = (1e-3,)
    config.hyperclip.weight_decay = 1.0
    config.hyperclip.batch_size = 128
    config.hyperclip.num_steps = 500
    config.hyperclip.chunk_steps = 125
    config.hyperclip.guidance = ConfigDict()
    config.hyperclip.guidance.optimizer = "sgd"  # or "adam", with rates near 0.01
    config.hyperclip.guidance.steps = (30, 100, 300, 1000)
    config.hyperclip.guidance.learning_rates = (3.0, 10.0)
    config.hyperclip.guidance.pull = (0.01, 0.1)  # weight of 1/2 ||e - e0||^2
    config.hyperclip.guidance.cosine = False  # decay of the rate
    config.hyperclip.guidance.langevin = 0.0  # size of the noise

    # HyperLDM: question -> latent.
    config.hyperldm = ConfigDict()
    config.hyperldm.condition = "pooled"  # or "tokens"
    config.hyperldm.denoiser = "v2"
    config.hyperldm.hidden_dim = 256
    config.hyperldm.num_blocks = 2
    config.hyperldm.schedule = "cosine"  # or "linear", "scaled_linear", "sqrt", "quartic"
    config.hyperldm.prediction = "v"  # or "eps"
    config.hyperldm.diffusion_steps = 1000
    config.hyperldm.drop_rate = 0.2
    config.hyperldm.fisher_share = 0.0  # of the Fisher metric in the loss, the rest is Euclidean
    config.hyperldm.ema_decay = 0.999
    config.hyperldm.learning_rates = (1e-3,)
    config.hyperldm.weight_decay = 0.01
    config.hyperldm.batch_size = 128
    config.hyperldm.num_steps = 2000
    config.hyperldm.chunk_steps = 250
    config.hyperldm.sampling_steps = 50  # of DDIM; as many as diffusion_steps: DDPM
    config.hyperldm.posterior_variance = 0.0  # of DDPM: 0 is beta tilde, 1 is beta
    config.hyperldm.start_time = 1.0  # below 1: from e0, diffused by that share of the steps
    # The samples of a question come in pairs with opposite noise. Their mean latent is generated.
    config.hyperldm.num_samples = 8
    config.hyperldm.guidance_scale = placeholder(float)  # None: chosen on validation tasks
    config.hyperldm.few_shot_guidance = (0.3, 1.0, 3.0)  # strengths, by the support set's loss

    config.hyperldm_tokens = ConfigDict(config.hyperldm)
    config.hyperldm_tokens.condition = "tokens"
    del config.hyperldm_tokens.guidance_scale  # it would be that of hyperldm: one for both
    config.hyperldm_tokens.guidance_scale = placeholder(float)

    # HyperLDM trained on by the loss of the networks that it generates in a few steps.
    config.tuned = ConfigDict(training)
    config.tuned.update(learning_rates=(1e-4,), num_steps=440, chunk_steps=55)
    config.tuned.patience = 4
    config.tuned.sampling_steps = 2  # of DDIM

    # HyperCLIP at every noise level: it guides HyperLDM from within, and ranks its samples.
    config.noisy_hyperclip = ConfigDict()
    config.noisy_hyperclip.condition = "tokens"
    config.noisy_hyperclip.hidden_dims = (256, 256)
    config.noisy_hyperclip.embed_dim = 128
    config.noisy_hyperclip.learning_rates = (1e-3,)
    config.noisy_hyperclip.weight_decay = 0.1
    config.noisy_hyperclip.ema_decay = 0.99
    config.noisy_hyperclip.batch_size = 128
    config.noisy_hyperclip.num_steps = 2000
    config.noisy_hyperclip.chunk_steps = 500
    config.noisy_hyperclip.guidance_scales = (1.0, 2.0, 4.0, 8.0)
    config.noisy_hyperclip.num_samples = 16  # of which the likeliest are averaged
    config.noisy_hyperclip.ranked = (1, 2, 4, 8)

    config.evaluate = ConfigDict()
    # Scale 0 ignores the sentence. It has a row of its own and cannot be chosen.
    config.evaluate.guidance_scales = (0.5, 1.0, 1.5, 2.0, 4.0)
    config.evaluate.few_shot_steps = (0, 1, 2, 5, 10, 20)
    config.evaluate.few_shot_rates = (1.0, 10.0)
    config.evaluate.shot_steps = (0, 1, 2, 5, 10, 20)  # with few examples
    config.evaluate.shots = (1, 2, 3, 5, 10)  # examples of each answer
    # Guides that few-shot rows start from, and that have controls (the method "questions").
    config.evaluate.few_shot_guides = ("hnet_language", "language_hyperldm_tokens")
    config.evaluate.control_guides = ("hnet_language", "language_hyperldm_tokens")
    config.evaluate.num_resamples = 10_000  # of the bootstrap

    config.checkpoint_every = 2  # chunks
    return config


def leave_out_tokens(config: ConfigDict) -> None:
    """Leaves out the methods of OF_TOKENS, and the tokens."""
    config.question_tokens = False
    config.methods = tuple(name for name in config.methods if name not in OF_TOKENS)
    config.latents.nearest = "hnet"
    config.evaluate.few_shot_guides = ("hnet_hyperldm", "hvae_hyperldm")
    config.evaluate.control_guides = ("hnet_hyperldm",)
