import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from published import META_VQA

import hyper_meta
from hyper_meta.core.configuration import load_settings
from hyper_meta.core.types import SentenceFeatures, UserError
from hyper_meta.data import precomputed
from hyper_meta.data.batching import (
    cap_sizes,
    choose_layouts,
    choose_shapes,
    scheduled_batches,
    wasted_share,
    whole_pass,
)
from hyper_meta.data.features import Features, write_store
from hyper_meta.data.table import build_table, task_shapes
from hyper_meta.data.tasks import Task, concepts_of

CONFIG = Path(hyper_meta.__file__).parents[1] / "configs" / "meta_vqa_simulated.py"
DIM = 5
TRAIN = {
    "How many cats?": {
        "train": [["a", "2"], ["b", "1"], ["c", "2"]],
        "test": [["d", "2"]],
        "answers": ["1", "2"],
    },
    "What color is it?": {
        "train": [["b", "red"]],
        "test": [["a", "{}"], ["e", "red"]],
        "answers": ["red", "blue", "{}"],
    },
    "Where?": {"train": [["c", "in"]], "test": [["d", "out"]], "answers": ["out", "in"]},
    "How  MANY dogs?": {"train": [["e", "1"]], "test": [["b", "1"]], "answers": ["1", "3"]},
}
TEST = {"What color?": {"train": [["f", "red"]], "test": [["a", "x"]], "answers": ["x", "red"]}}
TEMPLATES = {
    "How many cats?": "{} cats",
    "What color is it?": "it is {}",
    "Where?": "it is {}",
    "How  MANY dogs?": "{} dogs",
    "What color?": "{} it is",
    "Not asked?": "never {}",
}
IMAGES = ["e", "unused", "d", "c", "b", "a", "f"]


def _prompts():
    """The prompts of every task, one after another."""
    tasks = TRAIN | TEST
    return [TEMPLATES[q].replace("{}", answer) for q in tasks for answer in tasks[q]["answers"]]


def _vectors(names):
    """Features that tell which name they belong to, exact in float16."""
    codes = [[ord(letter) for letter in name] + [len(name)] for name in names]
    return np.array([[code[i % len(code)] for i in range(DIM)] for code in codes], np.float32)


def _arrays():
    questions = [*(TRAIN | TEST), "Not asked?"]
    return {
        "image_ids": np.array(IMAGES),
        "image_features": _vectors(IMAGES).astype(np.float16),
        "questions": np.array(questions),
        "question_features": _vectors(questions),
        "answer_prompts": np.array(_prompts()),
        "answer_features": _vectors(_prompts()),
        "meta": np.array("more than is asked for"),
    }


def _write(folder, *, train=TRAIN, test=TEST, templates=TEMPLATES, arrays=None):
    folder.mkdir(exist_ok=True)
    (folder / "meta_train.json").write_text(json.dumps(train))
    (folder / "meta_test.json").write_text(json.dumps(test))
    (folder / "prompt_meta.json").write_text(json.dumps(templates))
    np.savez(folder / "features.npz", **(_arrays() if arrays is None else arrays))
    return folder


def _load(folder, share=0.25, seed=0):
    return precomputed.load(folder, validation_share=share, seed=seed)


@pytest.fixture
def folder(tmp_path):
    return _write(tmp_path / "data")


def test_tasks_are_those_of_the_files(folder):
    tasks, _ = _load(folder)
    assert [len(tasks[split]) for split in ("train", "validation", "test")] == [3, 1, 1]
    read = {task.sentence: task for split in tasks.values() for task in split}
    for group, split in tasks.items():
        assert {task.group for task in split} == {group}
    color = read["What color is it?"]
    assert color == Task(
        sentence="What color is it?",
        answers=("red", "blue", "{}"),
        template="it is {}",
        family="other",
        group=color.group,
        support=(("b", 0),),
        query=(("a", 2), ("e", 0)),
    )
    assert read["How many cats?"].support == (("a", 1), ("b", 0), ("c", 1))
    assert [task.sentence for task in tasks["test"]] == ["What color?"]


def test_a_file_may_say_which_questions_ask_for_one_thing(tmp_path):
    counts = {name: TRAIN[name] | {"concept": "count"} for name in TRAIN if "many" in name.lower()}
    tasks, _ = _load(_write(tmp_path / "data", train=TRAIN | counts))
    concepts = {task.sentence: task.concept for split in tasks.values() for task in split}
    assert concepts == dict.fromkeys(TRAIN | TEST, "") | dict.fromkeys(counts, "count")
    everyone = [task for split in tasks.values() for task in split]
    expected = [concepts[task.sentence] or task.sentence for task in everyone]
    assert concepts_of(everyone) == expected and len({*expected}) == 4


def test_features_are_those_of_the_files_and_only_those_in_use(folder):
    tasks, features = _load(folder)
    assert features.image_ids == ("e", "d", "c", "b", "a", "f")
    assert features.questions == (*TRAIN, *TEST)
    assert set(features.prompts) == set(_prompts())
    assert len(features.prompts) == len(set(features.prompts))
    assert features.question_features.tokens is None
    for names, values in (
        (features.image_ids, features.image_features),
        (features.questions, features.question_features.pooled),
        (features.prompts, features.prompt_features),
    ):
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, _vectors(names))
    for split in tasks.values():
        table = build_table(split, features)
        rows = table.item_image[: table.support_size[0]]
        support = [image for image, _ in split[0].support]
        np.testing.assert_array_equal(table.image_features[rows], _vectors(support))


def _many(num):
    record = TRAIN["Where?"]
    return {f"Where {i}?": record for i in range(num)}


@pytest.mark.parametrize("share, count", [(0.1, 4), (0.15, 6), (0.5, 20), (0.98, 39)])
def test_validation_tasks_are_a_share_drawn_by_the_seed_alone(tmp_path, share, count):
    train = _many(40)
    arrays = _arrays()
    for name in ("questions", "question_features"):
        more = list(train) if name == "questions" else _vectors(train)
        arrays[name] = np.concatenate([arrays[name], more])
    templates = TEMPLATES | dict.fromkeys(train, "it is {}")
    folder = _write(tmp_path / "data", train=train, templates=templates, arrays=arrays)
    splits = {}
    for seed in (0, 1, 0):
        tasks, _ = _load(folder, share, seed)
        names = {split: [task.sentence for task in tasks[split]] for split in tasks}
        assert len(names["validation"]) == count
        assert sorted(names["validation"] + names["train"]) == sorted(train)
        # Each split keeps the order of the file.
        assert names["validation"] == [q for q in train if q in names["validation"]]
        assert names["test"] == list(TEST)
        assert splits.setdefault(seed, names) == names
    assert splits[0] != splits[1]


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, 0.1, 0.9, float("nan")])
def test_a_share_that_leaves_no_tasks_is_refused(folder, share):
    with pytest.raises(UserError, match=f"validation_share={share} of 4 training tasks"):
        _load(folder, share)


def _assert_same(one, other):
    for field in dataclasses.fields(Features):
        pair = getattr(one, field.name), getattr(other, field.name)
        jax.tree.map(np.testing.assert_array_equal, *pair)


def test_a_feature_store_serves_as_well(folder):
    tasks, expected = _load(folder)
    arrays = _arrays()
    store = Features(
        image_ids=tuple(arrays["image_ids"].tolist()),
        image_features=arrays["image_features"].astype(np.float32),
        questions=tuple(arrays["questions"].tolist()),
        question_features=SentenceFeatures(arrays["question_features"]),
        prompts=tuple(arrays["answer_prompts"].tolist()),
        prompt_features=arrays["answer_features"],
    )
    before = precomputed.folder_fingerprint(folder)
    (folder / "features.npz").unlink()
    write_store(folder / "features", {"encoder": "another"}, store)
    again, features = _load(folder)
    assert again == tasks
    _assert_same(features, expected)
    assert precomputed.folder_fingerprint(folder) != before
    path = folder / "features" / "features.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="feature store .* is damaged"):
        _load(folder)


def test_every_missing_file_is_named_at_once(folder):
    (folder / "meta_test.json").unlink()
    (folder / "features.npz").unlink()
    for call in (_load, precomputed.folder_fingerprint):
        with pytest.raises(UserError, match=r"has no meta_test.json, features.npz: .*prompt_meta"):
            call(folder)
        with pytest.raises(UserError, match="has no meta_train.json, meta_test.json, prompt_"):
            call(folder / "absent")


def test_the_fingerprint_is_that_of_each_file(folder):
    before = precomputed.folder_fingerprint(folder)
    assert before == precomputed.folder_fingerprint(folder) and len(before) == 64
    seen = {before}
    for name in precomputed.FILES:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        seen.add(precomputed.folder_fingerprint(folder))
        (folder / name).write_bytes(content)
    # A byte that moves from one file to the next counts too.
    first, second = (folder / name for name in precomputed.FILES[:2])
    content = first.read_bytes()
    first.write_bytes(content[:-1])
    second.write_bytes(content[-1:] + second.read_bytes())
    assert len(seen | {precomputed.folder_fingerprint(folder)}) == 6


def _record(**changes):
    return {"Where?": TRAIN["Where?"] | changes}


BAD_TASKS = {
    "no object": ({"Where?": [1]}, r"'Where\?' of .* is not an object with the lists train, test"),
    "no query": ({"Where?": {"train": [], "answers": []}}, "is not an object with the lists"),
    "no list": (_record(test="c"), "is not an object with the lists"),
    "support empty": (_record(train=[]), "has an empty support set"),
    "query empty": (_record(test=[]), "has an empty query set"),
    "one answer": (_record(answers=["in"]), r"has the answers \['in'\], two different strings"),
    "answers no strings": (_record(answers=[1, 2]), r"has the answers \[1, 2\], two different"),
    "answers nested": (_record(answers=["in", ["out"]]), "two different strings"),
    "answer twice": (_record(answers=["in", "out", "in"]), "lists the answer 'in' twice"),
    "unknown answer": (_record(test=[["d", "up"]]), r"has \['d', 'up'\] in its query set, an"),
    "image no string": (_record(train=[[7, "in"]]), r"has \[7, 'in'\] in its support set, \[image"),
    "item too long": (_record(train=[["c", "in", 1]]), "in its support set, .image id, answer"),
    "item no list": (_record(test=["in"]), "has 'in' in its query set"),
    "concept no string": (_record(concept=["a"]), r"has the concept \['a'\], a string is expected"),
    "image in two": (
        _record(train=[["c", "in"], ["c", "out"]]),
        "has the image 'c' twice in its support set, with the answers 'in' and 'out'",
    ),
    "image shared": (_record(test=[["c", "in"]]), "has the image 'c' in both support and query"),
}


@pytest.mark.parametrize("case", BAD_TASKS)
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_malformed_task_is_refused_by_name(tmp_path, case, part):
    record, message = BAD_TASKS[case]
    train = {q: TRAIN[q] for q in TRAIN if q != "Where?"}
    files = {"train": train | record} if part == "train" else {"train": train, "test": record}
    with pytest.raises(UserError, match=message) as caught:
        _load(_write(tmp_path / "data", **files))
    assert "correct its files" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("template", [None, 3, "no place for an answer", ""])
def test_a_task_without_a_template_is_refused(tmp_path, template):
    templates = TEMPLATES | {"Where?": template}
    with pytest.raises(UserError, match=r"'Where\?' of .* has the template"):
        _load(_write(tmp_path / "data", templates=templates))
    del templates["Where?"]
    with pytest.raises(UserError, match=r"'Where\?' of .* has the template None"):
        _load(_write(tmp_path / "data", templates=templates))


def test_a_question_of_training_and_test_tasks_is_refused(tmp_path):
    folder = _write(tmp_path / "data", test=TEST | {"Where?": TRAIN["Where?"]})
    with pytest.raises(UserError, match="has 1 questions among both .* the first 'Where"):
        _load(folder)


@pytest.mark.parametrize("name", precomputed.FILES[:3])
@pytest.mark.parametrize(
    "content, message",
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[]", "holds no questions"),
        (b"{}", "no q"),
        (b'{"Where?": 1, "Where?": 2}', "'Where\\?' stands in it twice"),
    ],
)
def test_a_file_that_is_no_object_is_refused(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} .*{message}"):
        _load(folder)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "one array", "bit"])
def test_a_damaged_npz_is_refused(folder, damage):
    path = folder / "features.npz"
    content = bytearray(path.read_bytes())
    if damage == "one array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        content[content.index(_arrays()["image_features"].tobytes())] ^= 1
        cut = bytes(content[: len(content) // 2])
        path.write_bytes({"empty": b"", "text": b"abc", "cut": cut, "bit": content}[damage])
    with pytest.raises(UserError, match="features.npz is damaged"):
        _load(folder)


def test_a_damaged_compressed_npz_is_refused(folder):
    path = folder / "features.npz"
    np.savez_compressed(path, **_arrays())
    _load(folder)
    content = bytearray(path.read_bytes())
    start = content.index(b"image_features.npy") + 40
    content[start : start + 20] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises(UserError, match="features.npz is damaged"):
        _load(folder)


def test_pickles_are_refused(tmp_path):
    arrays = _arrays()
    arrays["image_ids"] = arrays["image_ids"].astype(object)
    with pytest.raises(UserError, match="features.npz is damaged, it is no npz without pickle"):
        _load(_write(tmp_path / "data", arrays=arrays))


def _only(arrays, name, kind):
    """All but one of the images, questions or prompts."""
    keep = arrays[kind] != name
    return arrays | {key: arrays[key][keep] for key in (kind, precomputed.ARRAYS[kind])}


@pytest.mark.parametrize(
    "name, kind, message",
    [
        ("a", "image_ids", "no features for 1 images of the tasks, the first 'a'"),
        ("Where?", "questions", "no features for 1 questions of the tasks, the first 'Where?'"),
        ("it is {}", "answer_prompts", "1 answer prompts of the tasks, the first 'it is {}'"),
        ("3 dogs", "answer_prompts", "1 answer prompts of the tasks, the first '3 dogs'"),
    ],
)
def test_what_has_no_features_is_refused_by_name(tmp_path, name, kind, message):
    folder = _write(tmp_path / "data", arrays=_only(_arrays(), name, kind))
    with pytest.raises(UserError) as caught:
        _load(folder)
    assert message in str(caught.value)


def test_all_missing_arrays_are_named_at_once(tmp_path):
    arrays = _arrays()
    del arrays["questions"], arrays["answer_features"]
    with pytest.raises(UserError, match="has no arrays questions, answer_features"):
        _load(_write(tmp_path / "data", arrays=arrays))


BAD_ARRAYS = {
    "one too few": ("image_features", lambda x: x[:-1]),
    "flat": ("question_features", lambda x: x.ravel()),
    "deep": ("answer_features", lambda x: x[..., None]),
    "integers": ("answer_features", lambda x: x.astype(np.int32)),
    "doubles": ("question_features", lambda x: x.astype(np.float64)),
    "numbered images": ("image_ids", lambda x: np.arange(len(x))),
    "bytes": ("questions", lambda x: x.astype(bytes)),
    "names in a table": ("answer_prompts", lambda x: x[:, None]),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_wrong_shapes_and_types_are_refused_by_name(tmp_path, case):
    name, change = BAD_ARRAYS[case]
    arrays = _arrays()
    arrays[name] = change(arrays[name])
    with pytest.raises(UserError) as caught:
        _load(_write(tmp_path / "data", arrays=arrays))
    assert f"{name} {arrays[name].dtype} {list(arrays[name].shape)}" in str(caught.value)


def test_empty_and_unequally_wide_features_are_refused(tmp_path):
    arrays = _arrays()
    empty = arrays | {name: arrays[name][:0] for name in ("image_ids", "image_features")}
    with pytest.raises(UserError, match=r"has image_ids <U6 \[0\]"):
        _load(_write(tmp_path / "data", arrays=empty))
    arrays["image_features"] = arrays["image_features"][:, :-1]
    with pytest.raises(UserError, match="unequal width .*'image_features': 4, 'answer_f.*': 5"):
        _load(_write(tmp_path / "data", arrays=arrays))


@pytest.mark.parametrize("width", [1, 4, 9])
def test_questions_may_be_of_another_width(tmp_path, width):
    arrays = _arrays()
    arrays["question_features"] = np.resize(arrays["question_features"], (6, width))
    _, features = _load(_write(tmp_path / "data", arrays=arrays))
    np.testing.assert_array_equal(
        features.question_features.pooled, arrays["question_features"][:5]
    )
    assert features.image_features.shape[1] == features.prompt_features.shape[1] == DIM


LENGTH, TOKEN_DIM = 4, 3


def _tokens(**changes):
    """question_tokens.npz: the questions in another order, one of them not asked."""
    names = [*reversed([*TRAIN, *TEST]), "Not asked?"]
    mask = np.arange(LENGTH) < np.arange(len(names))[:, None] % LENGTH + 1
    values = [ord(name[0]) + len(name) for name in names]
    tokens = np.array(values)[:, None, None] + np.arange(LENGTH * TOKEN_DIM).reshape(LENGTH, -1)
    arrays = {"questions": np.array(names), "tokens": tokens.astype(np.float16), "mask": mask}
    return arrays | changes


def _write_tokens(folder, **changes):
    np.savez(folder / "question_tokens.npz", **_tokens(**changes))
    return folder


def test_token_states_of_questions_are_those_of_their_file(folder):
    before = precomputed.folder_fingerprint(folder), _load(folder)[1]
    _, features = _load(_write_tokens(folder))
    questions, given = features.question_features, _tokens()
    assert features.questions == (*TRAIN, *TEST)
    rows = [list(given["questions"]).index(name) for name in features.questions]
    expected = np.where(given["mask"][..., None], given["tokens"], 0)
    np.testing.assert_array_equal(questions.tokens, expected[rows])
    np.testing.assert_array_equal(questions.mask, given["mask"][rows])
    assert questions.tokens.dtype == np.float32 and questions.mask.dtype == bool
    np.testing.assert_array_equal(questions.pooled, before[1].question_features.pooled)
    after = precomputed.folder_fingerprint(folder)
    spoiled = np.where(given["mask"][..., None], given["tokens"], np.float16("nan"))
    again = _load(_write_tokens(folder, tokens=spoiled))[1]
    np.testing.assert_array_equal(again.question_features.tokens, questions.tokens)
    other = precomputed.folder_fingerprint(folder)
    assert len({before[0], after, other}) == 3


BAD_TOKENS = {
    "a question missing": (
        lambda x: {name: values[1:] for name, values in x.items()},
        r"no features for 1 questions of the tasks, the first 'What color\?'",
    ),
    "no mask": (lambda x: x | {"mask": None}, "has no arrays mask: add them"),
    "flat": (
        lambda x: x | {"tokens": x["tokens"][..., 0]},
        r"tokens float16 \[6, 4\] and mask bool \[6, 4\], strings \[n\], float16 or float32 \[n",
    ),
    "doubles": (lambda x: x | {"tokens": x["tokens"].astype(float)}, r"tokens float64 \[6, 4, 3\]"),
    "a mask of numbers": (lambda x: x | {"mask": x["mask"].astype(int)}, r"mask int64 \[6, 4\]"),
    "a shorter mask": (lambda x: x | {"mask": x["mask"][:, 1:]}, r"mask bool \[6, 3\]"),
    "a row too few": (lambda x: x | {"questions": x["questions"][1:]}, r"questions <U17 \[5\]"),
    "no token": (
        lambda x: x | {"mask": x["mask"] & (x["questions"] != "Where?")[:, None]},
        "has 1 questions without any token, the first 'Where",
    ),
    "NaN": (
        lambda x: (
            x
            | {
                "tokens": x["tokens"]
                * np.where(x["questions"] == "Where?", np.nan, 1)[:, None, None].astype(np.float16)
            }
        ),
        "has 1 questions with NaN or infinity in their tokens, the first 'Where",
    ),
    "named twice": (
        lambda x: {
            "questions": np.append(x["questions"], "Where?"),
            "tokens": np.concatenate([x["tokens"], x["tokens"][:1]]),
            "mask": np.concatenate([x["mask"], x["mask"][:1]]),
        },
        "has 1 names that come again with other features, the first 'Where",
    ),
}


@pytest.mark.parametrize("case", BAD_TOKENS)
def test_token_states_that_do_not_fit_are_refused_by_name(folder, case):
    change, message = BAD_TOKENS[case]
    arrays = {name: values for name, values in change(_tokens()).items() if values is not None}
    np.savez(folder / "question_tokens.npz", **arrays)
    with pytest.raises(UserError, match=message) as caught:
        _load(folder)
    assert "question_tokens.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_and_pickled_token_states_are_refused(folder):
    path = folder / "question_tokens.npz"
    path.write_bytes(b"abc")
    with pytest.raises(UserError, match="question_tokens.npz is damaged"):
        _load(folder)
    np.savez(path, **_tokens(questions=_tokens()["questions"].astype(object)))
    with pytest.raises(UserError, match="question_tokens.npz is damaged, it is no npz without"):
        _load(folder)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "kind, name", [("image_ids", "c"), ("questions", "Where?"), ("answer_prompts", "3 dogs")]
)
def test_features_that_are_not_finite_are_refused_by_name(tmp_path, bad, kind, name):
    arrays = _arrays()
    arrays[precomputed.ARRAYS[kind]][arrays[kind] == name, -1] = bad
    with pytest.raises(UserError, match="features.npz has 1 feature vectors with NaN or inf") as e:
        _load(_write(tmp_path / "data", arrays=arrays))
    assert repr(name) in str(e.value)


@pytest.mark.parametrize(
    "kind, name", [("image_ids", "a"), ("questions", "Where?"), ("answer_prompts", "2 cats")]
)
def test_one_name_with_two_features_is_refused_and_with_equal_ones_is_not(tmp_path, kind, name):
    arrays = _arrays()
    values = precomputed.ARRAYS[kind]
    arrays[kind] = np.append(arrays[kind], name)
    same = arrays[values][arrays[kind][:-1] == name][:1]
    once = _load(_write(tmp_path / "data"))[1]
    arrays[values] = np.concatenate([arrays[values], same])
    twice = _load(_write(tmp_path / "data", arrays=arrays))[1]
    assert twice.image_ids == once.image_ids
    assert (twice.questions, twice.prompts) == (once.questions, once.prompts)
    _assert_same(twice, once)
    arrays[values][-1] *= 1.1
    message = f"1 names that come again .* the first '{re.escape(name)}'"
    with pytest.raises(UserError, match=message):
        _load(_write(tmp_path / "data", arrays=arrays))


@pytest.fixture(scope="module")
def meta_vqa():
    """(tasks, features, the config) of the published split."""
    if not META_VQA.exists():
        pytest.skip("the published Meta-VQA split is not beside this repository")
    config = load_settings(str(CONFIG), Path(), [])
    return *_load(META_VQA, config.validation_share, config.seed), config


def test_meta_vqa_has_the_published_counts(meta_vqa):
    """method.md section 6; test_split_files has the rest."""
    tasks, features, _ = meta_vqa
    counts = {split: len(tasks[split]) for split in tasks}
    assert counts == {"train": 740, "validation": 130, "test": 373}
    parts = {"train": tasks["train"] + tasks["validation"], "test": tasks["test"]}
    assert len(parts["train"]) == 870
    everyone = parts["train"] + parts["test"]
    images = {image for task in everyone for image, _ in (*task.support, *task.query)}
    assert len(images) == len(features.image_ids) == 64_665
    assert features.image_features.shape == (64_665, 384)


def test_the_tokens_of_meta_vqa_average_to_its_questions(meta_vqa):
    """As its README says: the masked mean of the token states is the question's embedding."""
    questions = meta_vqa[1].question_features
    assert questions.tokens.shape == (1243, 13, 384)
    mask = questions.mask[..., None]
    mean = (questions.tokens * mask).sum(axis=1) / mask.sum(axis=1)
    np.testing.assert_allclose(mean, questions.pooled, atol=1e-3)


def _sizes(tasks):
    return np.array([[len(t.support), len(t.query), len(t.answers)] for t in tasks])


def test_without_an_adapter_meta_vqa_is_as_its_readme_says(meta_vqa):
    """The highest cosine is the right answer of 44.3% of the query examples, mean over tasks."""
    tasks, features, _ = meta_vqa
    table = build_table(tasks["test"], features)
    answers = table.answer_features / np.linalg.norm(table.answer_features, axis=1, keepdims=True)
    accuracies = []
    for task in range(len(table.answer_count)):
        start = table.item_offset[task] + table.support_size[task]
        items = slice(start, start + table.query_size[task])
        first = table.answer_offset[task]
        candidates = answers[first : first + table.answer_count[task]]
        cosine = table.image_features[table.item_image[items]] @ candidates.T
        accuracies.append(np.mean(cosine.argmax(axis=1) == table.item_label[items]))
    assert 100 * np.mean(accuracies) == pytest.approx(44.3, abs=0.05)


def test_the_config_of_meta_vqa_wastes_a_third_of_its_examples_at_most(meta_vqa):
    tasks, features, config = meta_vqa
    batching = config.batching
    for split in tasks:
        sizes = task_shapes(build_table(tasks[split], features))
        shapes = choose_shapes(sizes, batching.num_shapes)
        passes = whole_pass(sizes, shapes, max_examples=batching.max_examples, multiple=1)
        assert wasted_share(passes, sizes, [[shape] for shape in shapes]) < 1 / 3
    sizes = cap_sizes(_sizes(tasks["train"]), batching.max_support, batching.max_query)
    layouts = choose_layouts(
        sizes,
        config.hnet.batch_size,
        max_layouts=batching.num_layouts,
        num_groups=batching.num_groups,
    )
    batches = scheduled_batches(0, 0, 48, layouts=layouts, batch_size=config.hnet.batch_size)
    assert wasted_share([batches], sizes, [layout.shapes for layout in layouts]) < 1 / 4
