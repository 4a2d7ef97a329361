"""The quickstart: the main methods on embedded data in a few minutes on two cores.

hyper-meta run --config configs/quickstart.py --workdir runs/quickstart
"""

import digits_vqa
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = digits_vqa.get_config()
    config.num_seeds = 1
    config.methods = (
        *("references", "hnet_multitask", "conditional", "generators", "hnet_language"),
        *("language_hyperclip", "language_hyperldm_tokens", "nearest_latent", "questions"),
    )
    config.batching.num_layouts = 2  # fewer to compile
    config.batching.num_shapes = 2
    config.hnet.update(num_steps=330, chunk_steps=55)
    config.hnet.clip_norm = 1.0  # with 10 the loss may jump half-way, too late to recover
    config.conditional.update(num_steps=440, chunk_steps=55)
    config.generators.update(num_members=3, num_steps=440, chunk_steps=55)
    config.language.update(num_steps=385, chunk_steps=55, objective="fomaml", teacher_share=0.0)
    config.hyperclip.update(num_steps=250, chunk_steps=125)
    config.hyperclip.guidance.update(steps=(30, 100, 300), pull=(0.1,))
    config.latents.repeats = 4
    config.latents.learning_rates = (1.0,)
    config.latents.nearest = "language"
    config.hyperldm_tokens.update(num_steps=750, chunk_steps=125, few_shot_guidance=())
    config.evaluate.guidance_scales = (1.0, 2.0, 4.0)
    config.evaluate.few_shot_steps = (0, 1, 2, 5, 10)
    config.evaluate.shot_steps = (0, 2, 5, 10)
    config.evaluate.few_shot_rates = (1.0,)
    config.evaluate.shots = (1, 10)
    config.evaluate.few_shot_guides = ("hnet_language",)
    config.evaluate.control_guides = ("language_hyperldm_tokens",)
    return config
