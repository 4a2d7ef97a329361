"""Meta-VQA at its real size, from features computed once: three seeds.

    hyper-meta run --config configs/meta_vqa.py --workdir runs/meta_vqa

The image features of ../shared/meta_vqa are simulated (its README says how), only questions,
answers and sizes are real: no accuracy of such a run says anything about CLIP.
"""

import digits_vqa
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = digits_vqa.get_config()
    config.num_seeds = 3
    config.dataset = "precomputed"
    config.data_dir = "../shared/meta_vqa"  # or any folder of files in its format

    config.adapter.hidden_dim = 64  # 49,984 weights

    # 27 of 740 training tasks are larger than this: of those a step reads a window. 26% of a step's
    # examples are padding; it is 34% with 4 shapes, and 50% where every task is read whole.
    config.batching.num_shapes = 6
    config.batching.max_support = 256
    config.batching.max_query = 128

    # 12 passes over the training tasks, validated after every second one.
    for section in ("hnet", "mnet"):
        config[section].update(num_steps=288, chunk_steps=48)
    for section in ("conditional", "film"):
        config[section].update(num_steps=480, chunk_steps=48)
    config.latents.repeats = 4
    config.hvae.weights.repeats = 2
    config.hyperldm.few_shot_guidance = (0.3,)
    config.evaluate.few_shot_steps = (0, 1, 2, 5, 10, 20)
    return config
