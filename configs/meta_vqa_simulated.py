"""Meta-VQA at its real size, with simulated image features computed beforehand: three seeds.

    hyper-meta run --config configs/meta_vqa_simulated.py --workdir runs/meta_vqa_simulated

The image features of ../shared/meta_vqa are simulated (its README says how), only questions,
answers and sizes are real: no accuracy of such a run says anything about CLIP. Its results are in
meta_vqa_simulated.md.
"""

import digits_vqa
from ml_collections import ConfigDict

BY_TASKS = ("hnet", "mnet", "conditional", "film", "film_tokens")
OF_LANGUAGE = ("conditional_tokens", "generators", "distilled", "language")


def get_config() -> ConfigDict:
    config = digits_vqa.get_config()
    config.num_seeds = 3
    config.dataset = "precomputed"
    config.encoder = ""  # that made the features; named, generate works too
    config.data_dir = "../shared/meta_vqa"  # or any folder of files in its format

    config.network.hidden_dim = 64  # 49,600 weights

    # 27 of 740 training tasks are larger; of these a step reads a window. 24% of a step's examples
    # are padding (31% with 4 layouts, 46% where every task is read whole).
    config.batching.num_layouts = config.batching.num_shapes = 6
    config.batching.max_support = 256
    config.batching.max_query = 128
    # Without noise on the images one network for all tasks is better.
    config.batching.feature_noise = 0.0

    # A stage ends five validations, 480 steps, after its best.
    for name in (*BY_TASKS, *OF_LANGUAGE):
        config[name].update(num_steps=2304, chunk_steps=96, ema_decay=0.99, patience=5)
    # Features of norm 12 make gradients large, so inner rates are small.
    config.hnet.update(learning_rates=(3e-4,), inner_learning_rate=0.1)
    config.mnet.update(learning_rates=(3e-3, 0.03), inner_learning_rate=0.1)
    # Standardised, 740 questions are learnt by heart; unchanged, less so.
    config.conditional.standardise = config.film.standardise = False
    config.conditional.update(learning_rates=(3e-4, 1e-3), inner_learning_rate=0.003)
    config.film.learning_rates = (3e-3, 0.03)
    config.film_tokens.learning_rates = (1e-3,)

    # Where a sentence says little, a reader harms. Half of the sentences are dropped in training:
    # e0 is one network for all tasks, and how far a latent goes from there is chosen.
    for name in OF_LANGUAGE:
        config[name].update(drop_rate=0.5, learning_rates=(3e-4,), inner_learning_rate=0.1)
        config[name].strengths = (0.1, 0.25, 0.5, 0.75, 1.0)
    config.generators.num_members = 4
    config.language.update(teacher_share=0.0, adapted_share=0.3)

    # One network for all tasks is hard to beat here. The start of MAML is made to be adapted: in
    # its space HyperLDM's networks have an accuracy of 57 to 61% on validation tasks, with inner
    # rates of 1 to 0.02, and 62% in the space of the multitask network.
    config.latents.base = "hnet_multitask"
    config.latents.repeats = 4
    config.latents.learning_rates = (1.0, 10.0)
    config.hvae.weights.base = "mnet_multitask"
    config.hvae.weights.update(repeats=2, num_steps=20, learning_rates=(0.1, 1.0))
    for name in ("hyperldm", "hyperldm_tokens"):
        config[name].update(num_steps=500, chunk_steps=125, few_shot_guidance=(0.3,))
    config.noisy_hyperclip.update(num_steps=1000, chunk_steps=250)
    config.hyperclip.guidance.learning_rates = (0.3, 3.0)
    config.evaluate.few_shot_steps = (0, 1, 2, 5, 10, 20)
    config.evaluate.few_shot_rates = (0.1, 1.0, 10.0)
    config.evaluate.shot_steps = (0, 2, 5, 10)
    config.evaluate.shots = (1, 2, 3, 5, 10)
    config.evaluate.few_shot_guides = ("hnet_hyperldm", "hnet_language")
    config.evaluate.control_guides = ("hnet_hyperldm", "hnet_language")
    return config
