import re
from collections import Counter

import numpy as np
import pytest
from english import (
    BACKGROUNDS,
    COLOURS,
    DIGITS,
    PLACES,
    SIZES,
    answer_to,
    colour_distance,
    concept_of,
    read_scene,
)
from sklearn.datasets import load_digits

from hyper_meta.data.digits_vqa import digits_vqa_dataset_builder as builder
from hyper_meta.data.digits_vqa import scenes as scenes_module
from hyper_meta.data.digits_vqa.scenes import (
    CELL,
    handwriting_table,
    render,
    sample_scenes,
    take_scenes,
)

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def scene_of(digits_scenes):
    """image id -> the scene in words."""
    return {
        builder.image_id(split, row): read_scene(scenes, row)
        for split, scenes in digits_scenes.items()
        for row in range(len(scenes))
    }


def _wording(sentence):
    """A sentence without what it is about."""
    about = "|".join([*DIGITS, *COLOURS, *PLACES])
    if "many" in sentence:
        about += "|" + "|".join(SIZES)
    return re.sub(rf"\b({about})\b", "_", sentence).replace(" an ", " a ")


def test_tasks_of_one_concept_are_those_that_ask_the_same(digits_vqa):
    """Read from the words of the questions."""
    tasks = [task for split in SPLITS for task in digits_vqa[split]]
    pairs = {(task.concept, concept_of(task.sentence)) for task in tasks}
    assert len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})
    assert ("colour of digit/seven", ("colour", ("digit", "seven"))) in pairs
    named = {one for one, (kind, _) in pairs if kind == "background"}
    assert len(named) == 1 and "/" not in named.pop()


def test_test_tasks_of_compositions_are_fewer_concepts_in_several_wordings(digits_vqa):
    tasks = [task for task in digits_vqa["test"] if task.group == "composition"]
    assert (len(tasks), len({task.concept for task in tasks})) == (68, 17)


def test_there_are_as_many_tasks_and_families_as_promised(digits_vqa):
    tasks = [task for split in SPLITS for task in digits_vqa[split]]
    assert 300 <= len(tasks) <= 600
    assert len({task.family for task in digits_vqa["train"]}) >= 10
    assert len({task.sentence for task in tasks}) == len(tasks)
    groups = {split: Counter(task.group for task in digits_vqa[split]) for split in SPLITS}
    assert set(groups["train"]) == {"train"}
    for split in ("validation", "test"):
        assert set(groups[split]) == {"paraphrase", "composition"}
        assert min(groups[split].values()) >= 30


def test_tasks_are_ragged_within_the_promised_bounds(digits_vqa):
    for split in SPLITS:
        for task in digits_vqa[split]:
            assert 12 <= len(task.support) + len(task.query) <= 900
            assert 2 <= len(task.answers) <= 10
            assert len(set(task.answers)) == len(task.answers)
            assert len(task.query) >= (1 if split == "train" else 4)
            labels = Counter(label for _, label in task.support)
            assert set(labels) == set(range(len(task.answers))) and min(labels.values()) >= 2
            assert {label for _, label in task.query} <= set(labels)
    sizes = [len(task.support) + len(task.query) for task in digits_vqa["train"]]
    assert min(sizes) < 20 and max(sizes) > 200
    answers = [len(task.answers) for task in digits_vqa["train"]]
    assert min(answers) == 2 and max(answers) >= 8


def test_no_image_is_twice_in_a_task(digits_vqa):
    for split in SPLITS:
        for task in digits_vqa[split]:
            images = [image for image, _ in (*task.support, *task.query)]
            assert len(set(images)) == len(images)


def test_every_family_is_asked_in_several_wordings(digits_vqa):
    wordings = {}
    for task in digits_vqa["train"]:
        wordings.setdefault(task.family, set()).add(_wording(task.sentence))
    assert min(map(len, wordings.values())) >= 3


@pytest.mark.parametrize("split", ["validation", "test"])
def test_paraphrases_ask_a_trained_concept_in_words_never_trained_on(digits_vqa, split):
    concepts = {concept_of(task.sentence) for task in digits_vqa["train"]}
    other = {"validation": "test", "test": "validation"}[split]
    known = {_wording(task.sentence) for name in ("train", other) for task in digits_vqa[name]}
    for task in digits_vqa[split]:
        if task.group == "paraphrase":
            assert concept_of(task.sentence) in concepts
            assert _wording(task.sentence) not in known, task.sentence


@pytest.mark.parametrize("split", ["validation", "test"])
def test_compositions_are_new_combinations_of_trained_words(digits_vqa, split):
    """Never asked about in any wording elsewhere, though both of their parts are."""
    other = {"validation": "test", "test": "validation"}[split]
    elsewhere = [concept_of(task.sentence) for task in digits_vqa["train"]]
    others = {concept_of(task.sentence) for task in digits_vqa[other]}
    words = {word for task in digits_vqa["train"] for word in re.findall(r"\w+", task.sentence)}
    for task in digits_vqa[split]:
        if task.group == "composition":
            asked, about = concept = concept_of(task.sentence)
            assert concept not in elsewhere and concept not in others, task.sentence
            same_kind = [c for c in elsewhere if c[0] == asked and c[1] and c[1][0] == about[0]]
            assert len(set(same_kind)) >= 2
            assert [c for c in elsewhere if c[1] == about]
            assert set(re.findall(r"\w+", task.sentence)) <= words


@pytest.mark.parametrize("split", SPLITS)
def test_every_label_is_the_one_right_answer(digits_vqa, scene_of, split):
    for task in digits_vqa[split]:
        concept = concept_of(task.sentence)
        for image, label in (*task.support, *task.query):
            answer = answer_to(concept, scene_of[image])
            assert task.answers[label] == answer, (task.sentence, image)


def test_answers_are_not_nearly_always_the_same(digits_vqa):
    for task in digits_vqa["test"]:
        count = Counter(label for _, label in (*task.support, *task.query))
        assert max(count.values()) / count.total() <= 0.9, task.sentence


def test_query_scenes_of_held_out_tasks_are_written_by_unseen_hands(digits_vqa):
    for split in SPLITS:
        for task in digits_vqa[split]:
            assert {image.split("/")[0] for image, _ in task.support} == {"train"}
            assert {image.split("/")[0] for image, _ in task.query} == {split}


def test_handwriting_is_divided_without_overlap(digits_scenes):
    _, labels, rows = handwriting_table()
    digits = load_digits()
    np.testing.assert_array_equal(labels, digits.target)
    every = np.concatenate([rows[split] for split in SPLITS])
    np.testing.assert_array_equal(np.sort(every), np.arange(1797))
    pictures = {split: {digits.images[r].tobytes() for r in rows[split]} for split in SPLITS}
    assert len(set().union(*pictures.values())) == sum(map(len, pictures.values()))
    for split, scenes in digits_scenes.items():
        assert set(labels[rows[split]]) == set(range(10))
        assert np.isin(scenes.handwriting, rows[split]).all()


def test_the_data_are_the_same_every_time(digits_scenes):
    again = builder.draw_scenes()
    for split, scenes in digits_scenes.items():
        for name in ("digit", "handwriting", "colour", "size", "offset", "background"):
            np.testing.assert_array_equal(getattr(again[split], name), getattr(scenes, name))
        rows = np.arange(5)
        np.testing.assert_array_equal(
            *(render(take_scenes(s, rows)) for s in (scenes, again[split]))
        )
    assert len({scenes.noise_seed for scenes in digits_scenes.values()}) == 3


def _pixels():
    scenes = sample_scenes(np.random.default_rng(0), 150, handwriting="train")
    return scenes, render(scenes).astype(float)


def test_the_background_can_be_read_from_the_pixels():
    scenes, images = _pixels()
    rims = np.concatenate([images[:, [0, -1]].reshape(150, -1, 3), images[:, 23:25, 0]], axis=1)
    for row, pixel in enumerate(np.median(rims, axis=1)):
        distance = colour_distance(pixel, BACKGROUNDS, scenes_module.BACKGROUNDS, (0.85, 1.15))
        assert min(distance, key=distance.get) == BACKGROUNDS[scenes.background[row]]


def test_digits_and_their_colours_can_be_read_from_the_pixels():
    """The pixels of a corner that differ most from the background have the colour of the ink."""
    scenes, images = _pixels()
    right = []
    for row, corner in np.ndindex(150, 4):
        top, left = CELL * (corner // 2), CELL * (corner % 2)
        cell = images[row, top : top + CELL, left : left + CELL].reshape(-1, 3)
        contrast = np.linalg.norm(cell - cell[0], axis=1)
        assert (contrast.max() > 60) == (scenes.digit[row, corner] >= 0)
        if scenes.digit[row, corner] >= 0:
            pixel = cell[np.argsort(contrast)[-6:]].mean(axis=0)
            distance = colour_distance(pixel, COLOURS, scenes_module.COLOURS, (0.85, 1.05))
            colour = min(distance, key=distance.get)
            right.append(colour == COLOURS[scenes.colour[row, corner]])
    assert np.mean(right) > 0.97


def test_sizes_and_places_can_be_read_from_the_pixels():
    scenes, images = _pixels()
    for row, corner in np.argwhere(scenes.digit >= 0):
        top, left = CELL * (corner // 2), CELL * (corner % 2)
        cell = images[row, top : top + CELL, left : left + CELL]
        ground = np.median(cell[[0, -1]], axis=(0, 1))
        ink = np.linalg.norm(cell - ground, axis=2) > 40
        height = np.ptp(np.flatnonzero(ink.any(axis=1))) + 1
        assert (height > 14) == (scenes.size[row, corner] == 1)
