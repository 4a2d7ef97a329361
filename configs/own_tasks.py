"""Your own tasks: a folder with pictures and a table that says which answer each has to which
question (tasks.csv, tasks.jsonl or tasks.parquet with the columns task, image, answer).

hyper-meta check FOLDER
hyper-meta run --config configs/own_tasks.py --config.data_dir=FOLDER --workdir runs/own
"""

import digits_vqa
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = digits_vqa.get_config()
    config.num_seeds = 1
    config.dataset = "own_tasks"
    config.data_dir = "tasks"  # the folder
    # Of the Hub; or a folder. "bundled" knows pictures of coloured digits alone.
    config.encoder = "openai/clip-vit-base-patch32"
    # Questions in words that the encoder's own text tower hardly knows are better read by a
    # sentence encoder, such as "sentence-transformers/all-MiniLM-L6-v2" (hyper-meta check counts
    # them for the bundled encoder).
    config.question_encoder = ""

    config.own_tasks = ConfigDict()
    # Where the table has no column "split" or "subset", or no validation or test tasks.
    config.own_tasks.test_share = 0.15  # of the tasks; validation_share is of the rest
    config.own_tasks.query_share = 0.3  # of a task's examples of each answer
    config.own_tasks.template = "the answer is {}"  # where the table has none
    config.own_tasks.seed = 0  # of what is drawn, the same for all seeds of a run
    config.own_tasks.shuffle = True  # False: examples stay in the order of the table

    # The methods of the quickstart, trained until validation tasks gain no more.
    config.methods = (
        *("references", "hnet_multitask", "conditional", "generators", "hnet_language"),
        *("language_hyperclip", "language_hyperldm_tokens", "nearest_latent", "questions"),
    )
    config.batching.num_layouts = 2
    config.generators.num_members = 3
    config.language.update(objective="fomaml", teacher_share=0.0)
    config.evaluate.few_shot_guides = ("hnet_language",)
    config.evaluate.control_guides = ("language_hyperldm_tokens",)
    return config
