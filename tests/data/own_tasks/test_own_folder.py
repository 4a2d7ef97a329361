"""From a table to tasks: every kind of table, what is drawn, left out and read again."""

import collections
import importlib.util
import os
from pathlib import Path

import pytest
from toy_pictures import write_csv, write_jsonl, write_parquet, write_pictures

from hyper_meta.core.settings.run import OwnTasksSettings
from hyper_meta.core.types import UserError
from hyper_meta.data.own_tasks import folder as folders
from hyper_meta.data.own_tasks.folder import INDEX, open_folder, read_folder

ROOT = Path(__file__).parents[3]
DEFAULTS = {"test_share": 0.2, "query_share": 0.3, "template": "it is {}", "seed": 0}


def settings_of(**values):
    return OwnTasksSettings(**DEFAULTS | {"shuffle": True} | values)


def read(folder, *, validation_share=0.2, **values):
    return read_folder(folder, settings_of(**values), validation_share=validation_share)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """(a folder with pictures, its rows)"""
    folder = tmp_path_factory.mktemp("pictures")
    return folder, write_pictures(folder, num_images=60, num_things=3)


@pytest.fixture
def own(pictures, tmp_path):
    """(a folder of its own with the pictures, the rows)"""
    (tmp_path / "pictures").symlink_to(pictures[0] / "pictures")
    return tmp_path, pictures[1]


@pytest.fixture
def mine(tmp_path):
    """A folder with pictures that a test may change, and their table."""
    write_csv(tmp_path, write_pictures(tmp_path, num_images=60, num_things=3))
    return tmp_path


def everyone(found):
    return [task for part in found.tasks.values() for task in part]


@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet])
def test_tables_of_all_kinds_say_the_same(own, tmp_path, write, pictures):
    folder, rows = own
    write(folder, rows)
    found = read(folder)
    other = tmp_path / "other"
    other.mkdir()
    (other / "pictures").symlink_to(pictures[0] / "pictures")
    write_csv(other, rows)
    assert found.tasks == read(other).tasks and not found.mistakes
    assert {len(found.tasks[split]) for split in ("test", "validation")} == {4, 3}
    assert len(everyone(found)) == 18


def test_every_answer_is_in_support_and_query(own):
    folder, rows = own
    write_csv(folder, rows)
    for task in everyone(read(folder)):
        given = {(row["image"], row["answer"]) for row in rows if row["task"] == task.sentence}
        support, query = (
            collections.Counter(task.answers[answer] for _, answer in part)
            for part in (task.support, task.query)
        )
        examples = {(image, task.answers[answer]) for image, answer in task.support + task.query}
        lost = {answer for _, answer in given if answer not in task.answers}
        assert examples == {pair for pair in given if pair[1] not in lost}
        for answer in task.answers:
            total = support[answer] + query[answer]
            assert query[answer] == min(max(1, round(0.3 * total)), total - 1) > 0
        assert task.template == "it is {}"


def test_draws_are_the_seeds_and_stay_where_tasks_are_added(own):
    folder, rows = own
    write_csv(folder, rows)
    first = {task.sentence: task for task in everyone(read(folder))}
    assert {task.sentence: task for task in everyone(read(folder))} == first
    other = {task.sentence: task for task in everyone(read(folder, seed=1))}
    assert other.keys() == first.keys() and other != first
    more = [{**row, "task": f"Again: {row['task']}"} for row in rows]
    write_csv(folder, [*more, *rows])
    for task in everyone(read(folder)):
        if task.sentence in first:
            known = first[task.sentence]
            assert (task.support, task.query) == (known.support, known.query)


def test_a_concept_stays_together(own):
    folder, rows = own
    write_csv(folder, [{**row, "concept": row["task"].split()[-1]} for row in rows])
    tasks = read(folder, test_share=0.34, validation_share=0.5).tasks
    concepts = {split: {task.concept for task in part} for split, part in tasks.items()}
    assert [len(concepts[split]) for split in ("train", "validation", "test")] == [1, 2, 1]
    parts = list(concepts.values())
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert all(task.group == split for split, part in tasks.items() for task in part)


def test_what_a_table_says_is_not_drawn(own):
    folder, rows = own
    sentences = list(dict.fromkeys(row["task"] for row in rows))
    split = {name: ("train", "train", "test")[n % 3] for n, name in enumerate(sentences)}
    rows = [
        {
            **row,
            "split": split[row["task"]],
            "subset": ("support", "query")[number % 2],
            "group": "mine",
            "family": "kind",
            "template": "then {}",
        }
        for number, row in enumerate(rows)
    ]
    write_csv(folder, rows)
    found = read(folder, shuffle=False)
    assert {task.sentence for task in found.tasks["test"]} == {
        name for name in sentences if split[name] == "test"
    }
    for task in everyone(found):
        mine = [row for row in rows if row["task"] == task.sentence]
        for subset in ("support", "query"):
            expected = [(row["image"], row["answer"]) for row in mine if row["subset"] == subset]
            kept = [(image, task.answers[answer]) for image, answer in getattr(task, subset)]
            assert kept == expected
        assert (task.group, task.family, task.template) == ("mine", "kind", "then {}")
    shuffled = {task.sentence: task for task in everyone(read(folder))}
    for task in everyone(found):
        again = shuffled[task.sentence]
        assert sorted(again.support) == sorted(task.support)
    assert any(shuffled[task.sentence].support != task.support for task in everyone(found))


def test_answers_stand_in_their_natural_order_or_in_the_one_given(own):
    folder, rows = own
    numbers = [{**row, "answer": str(1 + n % 11)} for n, row in enumerate(rows)]
    numbers = [{**row, "task": row["task"].split()[-1]} for row in numbers]
    numbers = list({(row["task"], row["image"]): row for row in numbers}.values())
    write_csv(folder, numbers)
    for task in everyone(read(folder, validation_share=0.5, test_share=0.34)):
        assert list(task.answers) == sorted(task.answers, key=int)
    given = "|".join(map(str, range(11, 0, -1)))
    write_csv(folder, [{**row, "answers": given} for row in numbers])
    for task in everyone(read(folder, validation_share=0.5, test_share=0.34)):
        assert list(task.answers) == given.split("|")


def test_numbers_of_json_and_parquet_are_texts(own):
    folder, rows = own
    for write in (write_jsonl, write_parquet):
        write(folder, [{**row, "answer": n % 2} for n, row in enumerate(rows)])
        assert {task.answers for task in everyone(read(folder))} == {("0", "1")}
        for name in ("tasks.jsonl", "tasks.parquet"):
            (folder / name).unlink(missing_ok=True)


def kinds(findings):
    return {finding.kind for finding in findings}


def test_what_is_left_out_is_told(own, capsys):
    folder, rows = own
    lonely = [{**row, "task": "Lonely?", "answer": "red"} for row in rows[:5]]
    rare = {**rows[0], "task": rows[0]["task"], "image": "pictures/059.png", "answer": "mauve"}
    rows = [row for row in rows if (row["task"], row["image"]) != (rare["task"], rare["image"])]
    write_csv(folder, [{**row, "note": "-"} for row in (*rows, *lonely, rare, rows[3])])
    found = read(folder)
    assert not found.mistakes
    assert kinds(found.remarks) == {
        "columns that are not read",
        "tasks with fewer than two answers, left out",
        "answers seen once in a task, left out",
        "rows that stand there twice, counted once",
        "tasks without a template",
        "query images that are images of training tasks too",
    }
    line = next(f.line for f in found.remarks if "mauve" in f.text)
    assert line == 1 + len(rows) + len(lonely) + 1
    assert "Lonely?" not in {task.sentence for task in everyone(found)}
    assert all("mauve" not in task.answers for task in everyone(found))
    open_folder(folder, settings_of(), validation_share=0.2)
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "seen once in a task, left out: 1;" in told
    assert f"hyper-meta check {folder}" in told


def test_an_image_that_did_not_change_is_not_read_again(mine, monkeypatch):
    folder = mine
    reads = []
    read_bytes = folders._bytes
    monkeypatch.setattr(folders, "_bytes", lambda path: reads.append(path) or read_bytes(path))
    first = open_folder(folder, settings_of(), validation_share=0.2)
    assert len(reads) == first.num_images == len(first.image_hashes)
    reads.clear()
    assert open_folder(folder, settings_of(), validation_share=0.2).fingerprint == first.fingerprint
    assert not reads
    changed = folder / next(iter(first.image_hashes))
    changed.write_bytes(changed.read_bytes() + b"!")
    assert open_folder(folder, settings_of(), validation_share=0.2).fingerprint != first.fingerprint
    assert reads == [changed]
    for content in ("{", "[]", '{"a": 1}'):
        (folder / "features" / INDEX).write_text(content)
        again = open_folder(folder, settings_of(), validation_share=0.2)
        assert len(again.image_hashes) == first.num_images


def test_a_picture_that_changes_while_it_is_read_is_refused(mine):
    folder = mine
    data = open_folder(folder, settings_of(), validation_share=0.2)
    path = folder / next(iter(data.image_hashes))
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(UserError, match="changed while it was read: run again"):
        list(data.read_images(0))


def test_a_file_of_the_same_size_and_age_is_read_again(mine):
    folder = mine
    data = open_folder(folder, settings_of(), validation_share=0.2)
    path = folder / next(iter(data.image_hashes))
    status, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = open_folder(folder, settings_of(), validation_share=0.2)
    assert again.fingerprint != data.fingerprint


def test_lists_of_answers_keep_their_bars_and_long_numbers_their_order(own):
    folder, rows = own
    answers = ["a|b", "9" * 5000, "1" + "0" * 5000]
    rows = [{**row, "answer": answers[number % 3]} for number, row in enumerate(rows)]
    write_jsonl(folder, rows)
    assert all(list(task.answers) == answers for task in everyone(read(folder)))
    write_jsonl(folder, [{**row, "answers": answers[::-1]} for row in rows])
    found = read(folder)
    assert all(list(task.answers) == answers[::-1] for task in everyone(found))
    assert "answers that their list lacks, left out" not in kinds(found.remarks)


def test_images_are_read_in_one_order(own):
    folder, rows = own
    write_csv(folder, rows)
    data = open_folder(folder, settings_of(), validation_share=0.2)
    names = [name for name, _ in data.read_images(0)]
    assert names == sorted(names) == list(data.image_hashes)
    assert [name for name, _ in data.read_images(7)] == names[7:]
    ((name, content),) = data.read_named([names[3]])
    assert name == names[3] and content == (folder / name).read_bytes()
    with pytest.raises(UserError, match="cannot read the image"):
        list(data.read_named(["pictures/none.png"]))


def test_the_built_in_tasks_come_back_from_a_folder(digits_vqa, tmp_path):
    """Written by the example, in the order of the table."""
    spec = importlib.util.spec_from_file_location("example", ROOT / "examples/digits_folder.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    some = {split: tasks[::20] for split, tasks in digits_vqa.items()}
    images = {
        image
        for tasks in some.values()
        for task in tasks
        for image, _ in (*task.support, *task.query)
    }
    read_images = lambda start: ((image, b"") for image in images)  # noqa: E731
    example.write_folder(folders.Source("digits", some, "", len(images), read_images), tmp_path)
    found = read_folder(tmp_path, settings_of(shuffle=False), validation_share=0.2)
    assert not found.mistakes and found.tasks.keys() == some.keys()

    def renamed(part):
        return tuple((f"{image}.png", answer) for image, answer in part)

    for split, tasks in some.items():
        for task, given in zip(found.tasks[split], tasks, strict=True):
            assert task.support == renamed(given.support) and task.query == renamed(given.query)
            for name in ("sentence", "answers", "template", "family", "group", "concept"):
                assert getattr(task, name) == getattr(given, name)
