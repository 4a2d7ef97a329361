"""A folder of precomputed random features: images and answers, questions and tokens of three
different widths."""

import json

import numpy as np
from toy_features import random_tokens

DIM, QUESTION_DIM, TOKEN_DIM = 5, 7, 3
NUM_TASKS = {"train": 12, "test": 4}
ANSWERS = ("red", "green", "blue")
TEMPLATE = "it is {}"


def write_folder(folder, *, seed=0):
    """Tasks with three answers, four images in the support and three in the query set."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    questions, images = [], [f"image {number}" for number in range(40)]
    for split, count in NUM_TASKS.items():
        tasks = {f"What {split} {number}?": _task(rng, images) for number in range(count)}
        (folder / f"meta_{split}.json").write_text(json.dumps(tasks))
        questions += tasks
    templates = dict.fromkeys(questions, TEMPLATE)
    (folder / "prompt_meta.json").write_text(json.dumps(templates))
    prompts = [TEMPLATE.replace("{}", answer) for answer in ANSWERS]

    def features(names, width):
        return (1 + 0.2 * rng.normal(size=(len(names), width))).astype(np.float32)

    np.savez(
        folder / "features.npz",
        image_ids=np.array(images),
        image_features=features(images, DIM),
        questions=np.array(questions),
        question_features=features(questions, QUESTION_DIM),
        answer_prompts=np.array(prompts),
        answer_features=features(prompts, DIM),
    )
    tokens, mask = random_tokens(seed, len(questions), width=TOKEN_DIM)
    path = folder / "question_tokens.npz"
    np.savez(path, questions=np.array(questions), tokens=tokens.astype(np.float16), mask=mask)
    return folder


def _task(rng, images):
    chosen = rng.choice(images, size=7, replace=False)
    labels = [*ANSWERS, *rng.choice(ANSWERS, size=4)]
    items = [[str(image), str(label)] for image, label in zip(chosen, labels, strict=True)]
    return {"train": items[:4], "test": items[4:], "answers": list(ANSWERS)}
