"""Meta-VQA at its real size, with simulated image features computed beforehand: three seeds.

    hyper-meta run --config configs/meta_vqa_simulated.py --workdir runs/meta_vqa_simulated

The image features of ../shared/meta_vqa are simulated (its README says how), only questions,
answers and sizes are real: no accuracy of such a run says anything about CLIP. Its results are in
meta_vqa_simulated.md.
"""

import digits_vqa
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = digits_vqa.get_config()
    config.num_seeds = 3
    # Methods that read tokens have no settings of their own for these tasks yet.
    digits_vqa.leave_out_tokens(config)
    config.dataset = "precomputed"
    config.data_dir = "../shared/meta_vqa"  # or any folder of files in its format

    config.network.hidden_dim = 64  # 49,600 weights

    # 27 of 740 training tasks are larger; of these a step reads a window. 24% of a step's examples
    # are padding (31% with 4 layouts, 46% where every task is read whole).
    config.batching.num_layouts = config.batching.num_shapes = 6
    config.batching.max_support = 256
    config.batching.max_query = 128

    # Standardised, 740 questions are learnt by heart; unchanged, less so (conditional hypernetwork
    # on validation tasks: 55.8 and 58.9).
    config.conditional.standardise = config.film.standardise = False
    # 8 to 17 passes over the training tasks. Features of norm 12 make gradients large, so inner
    # rates are small.
    for name in ("hnet", "mnet", "conditional", "film"):
        config[name].update(ema_decay=0.0, patience=0)
    config.hnet.update(num_steps=192, chunk_steps=48, inner_learning_rate=0.1)
    config.mnet.update(num_steps=288, chunk_steps=48, inner_learning_rate=0.1)
    config.mnet.learning_rates = (0.03,)
    config.conditional.update(num_steps=384, chunk_steps=48, inner_learning_rate=0.003)
    config.conditional.learning_rates = (1e-3,)
    config.film.update(num_steps=384, chunk_steps=48, learning_rates=(0.03,))

    # One network for all tasks is hard to beat here. The start of MAML is made to be adapted: in
    # its space HyperLDM's networks have an accuracy of 57 to 61% on validation tasks, with inner
    # rates of 1 to 0.02, and 62% in the space of the multitask network.
    config.latents.base = "hnet_multitask"
    config.latents.repeats = 4
    # In HVAE's space the largest is chosen. There HyperLDM's networks have an accuracy of 60.3% on
    # validation tasks with a largest rate of 1, 61.3% with 100, 60.6% with 1000 (seed 0).
    config.latents.learning_rates = (1.0, 10.0, 100.0)
    config.hvae.weights.base = "mnet_multitask"
    config.hvae.weights.update(repeats=2, num_steps=20, learning_rates=(0.1, 1.0))
    config.hyperldm.update(num_steps=500, chunk_steps=125, few_shot_guidance=(0.3,))
    config.hyperclip.guidance.learning_rates = (0.3, 3.0)
    config.evaluate.few_shot_steps = (0, 1, 2, 5, 10, 20)
    config.evaluate.few_shot_rates = (0.003, 0.1, 1.0, 10.0, 100.0)
    config.evaluate.shot_steps = (0, 2, 5, 10)
    config.evaluate.shots = tuple(range(1, 11))
    return config
