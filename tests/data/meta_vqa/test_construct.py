"""The rules of method.md section 6, one by one, and the published split as their oracle."""

import json
import random

import pytest
from published import META_VQA

from hyper_meta.data.meta_vqa.construct import (
    Annotation,
    construct,
    divide,
    group,
    is_kept,
    split_task,
)


def _annotations(question, answers, *, answer_type="other", first=0):
    """One for each answer, about an image each."""
    return [
        Annotation(f"COCO_train2014_{first + n:012d}", question, answer, answer_type)
        for n, answer in enumerate(answers)
    ]


@pytest.mark.parametrize(("answer_type", "kept"), [("number", 2), ("other", 2), ("yes/no", 0)])
def test_only_numbers_and_other_answers_are_kept(answer_type, kept):
    grouped = group(_annotations("Q?", ["a", "a"], answer_type=answer_type))
    assert sum(len(images) for answers in grouped.values() for images in answers.values()) == kept


def test_a_task_is_the_exact_question():
    rows = _annotations("What is it?", "aa") + _annotations("what is it?", "aa", first=2)
    assert list(group(rows)) == ["What is it?", "what is it?"]


def test_an_image_counts_once_for_a_question_with_its_first_answer():
    rows = _annotations("Q?", "aab") + _annotations("Q?", "bbb") + _annotations("R?", "aa")
    names = [f"COCO_train2014_{n:012d}" for n in range(3)]
    # The third image's b is an answer seen once.
    assert group(rows) == {"Q?": {"a": names[:2]}, "R?": {"a": names[:2]}}


def test_answers_seen_once_are_dropped():
    assert {k: len(v) for k, v in group(_annotations("Q?", "aabccc"))["Q?"].items()} == {
        "a": 2,
        "c": 3,
    }


@pytest.mark.parametrize(
    ("question", "sizes", "kept"),
    [
        ("What is it?", (11, 10), True),
        ("What is it?", (10, 10), False),
        ("What is it?", (30,), False),
        ("What is it?", (), False),
        ("Is it red or blue?", (20, 20), False),
        ("What colour is the orchid?", (20, 20), True),
    ],
)
def test_which_questions_are_tasks(question, sizes, kept):
    images = {f"answer {n}": ["image"] * size for n, size in enumerate(sizes)}
    assert is_kept(question, images) is kept


@pytest.mark.parametrize("size", range(2, 40))
def test_each_answer_is_divided_seventy_to_thirty(size):
    names = [f"image {n}" for n in range(size)]
    task = split_task({"a": names, "b": ["x", "y"]})
    support = [name for name, answer in task["train"] if answer == "a"]
    query = [name for name, answer in task["test"] if answer == "a"]
    assert sorted(support + query) == sorted(names)
    assert abs(len(support) - 0.7 * size) <= 0.5
    assert task["answers"] == ["a", "b"]


def test_tasks_are_divided_seventy_to_thirty_in_a_random_order():
    first, rest = divide(range(100))
    assert len(first) == 70 and sorted(first + rest) == list(range(100))
    assert first != sorted(first) and divide(range(100)) == (first, rest)


def _published():
    if not META_VQA.exists():
        pytest.skip("the published Meta-VQA split is not beside this repository")
    names = ("meta_train", "meta_test", "ques_ans_count")
    return [json.loads((META_VQA / f"{name}.json").read_text()) for name in names]


def _before_shuffling(shuffled):
    order = list(range(len(shuffled)))
    random.Random(2021).shuffle(order)
    return [item for _, item in sorted(zip(order, shuffled, strict=True))]


def test_the_published_split_comes_out_of_its_own_annotations():
    """The published files say which annotations the authors kept, but for the order within an
    answer; that is recovered by undoing the shuffle, and shown to be the right one by its having
    every image of train2014 before those of val2014, as VQA v2 is read."""
    train, test, counts = _published()
    rows = []
    for question, answers in counts.items():
        record = (train | test)[question]
        for answer in answers:
            items = record["train"] + record["test"]
            images = _before_shuffling([image for image, given in items if given == answer])
            assert images == sorted(images, key=lambda image: "val2014" in image)
            rows += [Annotation(image, question, answer, "other") for image in images]
    assert len(rows) == 104_112
    random_order = random.Random(0)
    once = _annotations("What is the man riding on?", [f"only once {n}" for n in range(50)])
    noise = [row._replace(image_id=f"COCO_val2014_{n:012d}") for n, row in enumerate(once)]
    unwanted = noise + _annotations("Is it a dog or a cat?", ["dog", "cat"] * 30)
    random_order.shuffle(unwanted)
    built = construct(rows + unwanted)
    assert built == (train, test)
    assert [list(part) for part in built] == [list(train), list(test)]
