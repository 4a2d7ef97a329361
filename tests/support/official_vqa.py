"""Small files in the formats of VQA v2 and COCO 2014, as their publishers write them."""

import contextlib
import io
import json
import zipfile

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 40, 30), "green": (40, 190, 60), "blue": (40, 60, 220)}
TRAIN_QUESTIONS = (
    "What color is the {}?",
    "What is the {} on?",
    "What kind of {} is this?",
)
THINGS = ("bowl", "train", "cake", "shirt")
QUESTIONS = tuple(form.format(thing) for form in TRAIN_QUESTIONS for thing in THINGS)
SUBSETS = {"train2014": "Train", "val2014": "Val"}


def jpeg(colour, *, seed=0, size=(40, 30), mode="RGB"):
    """The bytes of a JPEG file of one colour with some noise."""
    noise = np.random.default_rng(seed).integers(-20, 20, (size[1], size[0], 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "jpeg")
    return out.getvalue()


def rows(subset, *, first=0, num_images=40):
    """(questions, annotations, {image file: JPEG}) of a subset: every image is of one colour, which
    answers every question about it."""
    questions, annotations, images = [], [], {}
    for number in range(first, first + num_images):
        name = list(COLOURS)[number % len(COLOURS)]
        images[f"COCO_{subset}_{number:012d}.jpg"] = jpeg(COLOURS[name], seed=number)
        for position, question in enumerate(QUESTIONS):
            row = {"image_id": number, "question_id": 1000 * number + position}
            questions.append(row | {"question": question})
            annotations.append(
                row
                | {
                    "question_type": "what",
                    "answer_type": "other",
                    "multiple_choice_answer": name,
                    "answers": [{"answer": name, "answer_confidence": "yes", "answer_id": 1}],
                }
            )
    return questions, annotations, images


def questions_json(subset, questions):
    """The content of v2_OpenEnded_mscoco_<subset>_questions.json."""
    return {
        "info": {"description": "made by a test", "version": "2.0"},
        "task_type": "Open-Ended",
        "data_type": "mscoco",
        "data_subtype": subset,
        "license": {"name": "", "url": ""},
        "questions": questions,
    }


def annotations_json(subset, annotations):
    """The content of v2_mscoco_<subset>_annotations.json."""
    return {
        "info": {"description": "made by a test", "version": "2.0"},
        "data_type": "mscoco",
        "data_subtype": subset,
        "license": {"name": "", "url": ""},
        "annotations": annotations,
    }


def write_zip(path, members):
    """A zip archive of {name: bytes}."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def write(folder, *, num_images=40, images=None):
    """All six archives in a folder, named as published. images: {file: bytes} in place of some."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (subset, name) in enumerate(SUBSETS.items()):
        asked, answered, made = rows(subset, first=100 * number, num_images=num_images)
        write_zip(
            folder / f"v2_Questions_{name}_mscoco.zip",
            {
                f"v2_OpenEnded_mscoco_{subset}_questions.json": json.dumps(
                    questions_json(subset, asked)
                )
            },
        )
        write_zip(
            folder / f"v2_Annotations_{name}_mscoco.zip",
            {
                f"v2_mscoco_{subset}_annotations.json": json.dumps(
                    annotations_json(subset, answered)
                )
            },
        )
        made |= {file: content for file, content in (images or {}).items() if file in made}
        members = {f"{subset}/": b""} | {f"{subset}/{file}": made[file] for file in made}
        write_zip(folder / f"{subset}.zip", members)
    return folder


def register(patch, folder):
    """Makes the files of a folder the registered ones, under the addresses of the real ones."""
    from tensorflow_datasets.core.download import checksums

    from hyper_meta.data.meta_vqa.meta_vqa_dataset_builder import Builder

    for url in list(Builder.url_infos):
        path = folder / url.rsplit("/", 1)[1]
        if path.exists():
            patch.setitem(Builder.url_infos, url, checksums.compute_url_info(path))


def serve(patch, downloader, folder):
    """Answers tensorflow-datasets' requests with the files of a folder; returns what was asked."""
    asked = []

    class Response:
        def __init__(self, url, size):
            self.url, self.headers = url, {"Content-length": str(size)}

    @contextlib.contextmanager
    def open_url(url, **kwargs):
        asked.append(url)
        content = (folder / url.rsplit("/", 1)[1]).read_bytes()
        yield Response(url, len(content)), [content[:1000], content[1000:]]

    patch.setattr(downloader, "_open_url", open_url)
    return asked
