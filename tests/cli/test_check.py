"""`hyper-meta check`: what it lists; and bad folders, with a clear list and nothing half-built."""

import csv
import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image
from toy_pictures import write_csv, write_jsonl, write_parquet, write_pictures

from hyper_meta.cli.main import main
from hyper_meta.core.configuration import execute_file
from hyper_meta.core.settings import as_dict
from hyper_meta.preparation.check import BY_EXAMPLES, BY_TASKS, DEFAULTS, VALIDATION_SHARE
from hyper_meta.preparation.prepare import bundled_encoder_path

CONFIGS = Path(__file__).parents[2] / "configs"
CONFIG = str(CONFIGS / "own_tasks.py")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return folder, write_pictures(folder, num_images=60, num_things=3)


@pytest.fixture
def own(pictures, tmp_path):
    """(a folder with a link to pictures, the rows of a table)"""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "pictures").symlink_to(pictures[0] / "pictures")
    return folder, [dict(row) for row in pictures[1]]


def test_a_good_folder(own, capsys):
    folder, rows = own
    write_csv(folder, rows)
    before = sorted(folder.iterdir())
    assert main(["check", str(folder)]) == 0
    out = capsys.readouterr().out
    for said in (
        "60 images",
        "train            13",
        "test              3",
        "20 / 20 / 20",
        "2 / 2 / 3",
        "20-49    18 ####",
        "tasks without a template",
        "18 of 18: 'the answer is {}' is taken",
        "words that the bundled encoder's training hardly had: 1 of 11 (side). ",
        "--config.question_encoder=",
        "to expect of 13 training tasks with 20 examples (median):",
        "44.8% with 20 training tasks",
        "56.5% with 25 examples of each",
    ):
        assert said in out, said
    assert sorted(folder.iterdir()) == before


def test_what_is_to_be_expected_is_what_was_measured():
    """In docs/results.md."""
    text = (CONFIGS.parent / "docs" / "results.md").read_text()
    for tasks, accuracy in BY_TASKS.items():
        assert re.search(rf"^\| \d+ \({tasks}\) \| all \| {accuracy} ", text, re.MULTILINE)
    for examples, accuracy in BY_EXAMPLES.items():
        assert re.search(rf"^\| 81 \(324\) \| {examples} \| {accuracy} ", text, re.MULTILINE)


def test_without_a_configuration_it_reads_as_the_one_of_own_tasks():
    config = execute_file(Path(CONFIG))
    assert as_dict(DEFAULTS) == config.own_tasks.to_dict()
    assert config.validation_share == VALIDATION_SHARE


def test_a_configuration_is_followed(own, capsys):
    folder, rows = own
    write_csv(folder, rows)
    command = ["check", str(folder), "--config", CONFIG, "--config.own_tasks.test_share=0.5"]
    assert main([*command, "--config.own_tasks.template=then {}"]) == 0
    out = capsys.readouterr().out
    assert "test              9" in out and "'then {}' is taken" in out


def test_what_may_be_meant_is_said(own, capsys):
    folder, rows = own
    again = [{**row, "task": rows[0]["task"].upper().rstrip("?")} for row in rows[:20]]
    write_csv(folder, [{**row, "tempalte": "it is {}"} for row in (*rows, *again)])
    Image.new("RGB", (4, 4)).save(folder / "unused.png")
    assert main(["check", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "tempalte (did you mean template?)" in out
    assert "tasks that differ only in case, spaces or the last mark (1)" in out
    assert "line 362: 'WHAT IS THE COLOUR OF NUMBER 0', 'What is the colour" in out
    assert "pictures that no row names" in out and "1, such as unused.png" in out


def test_a_picture_under_two_names_is_seen(own, capsys):
    folder, rows = own
    for number, name in enumerate(("one.png", "two.png", "same.png")):
        Image.new("RGB", (5, 5), (number // 2, 7, 7)).save(folder / name)
    answers = ("red", "blue", "red")
    names = ("one.png", "two.png", "same.png")
    more = [{**rows[0], "image": n, "answer": a} for n, a in zip(names, answers, strict=True)]
    write_csv(folder, [*rows, *more])
    assert main(["check", str(folder), "--all"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "two.png" in line]
    assert "one.png" in line and line.endswith(f"of {rows[0]['task']!r}, with two answers")


def test_every_finding_with_all(own, capsys):
    folder, rows = own
    write_csv(folder, [{**row, "image": f"{row['image']}.gif"} for row in rows])
    assert main(["check", str(folder)]) == 2
    out = capsys.readouterr().out
    assert "missing images (60)" in out and "and 55 more (--all)" in out
    assert out.count("line ") == 5
    assert main(["check", str(folder), "--all"]) == 2
    assert capsys.readouterr().out.count("line ") == 60


def raw(name, content):
    """A folder whose table has this content."""

    def write(folder, rows):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def changed(write=write_csv, **values):
    """The table, its fourth row, of line 5, with other values."""

    def make(folder, rows):
        for name, value in values.items():
            for row in rows:
                row.setdefault(name, "")
            rows[3][name] = value
        write(folder, rows)

    return make


def every(write=write_csv, **values):
    """The table with values in all rows."""
    return lambda folder, rows: write(folder, [{**row, **values} for row in rows])


def added(*others):
    """The table with rows after it, each made of the first."""

    def make(folder, rows):
        extra = [{**rows[0], **other} for other in others]
        write_csv(folder, [dict.fromkeys({**rows[0], **extra[0]}, "") | r for r in (*rows, *extra)])

    return make


def cut_row(folder, rows):
    write_csv(folder, rows)
    lines = (folder / "tasks.csv").read_text().splitlines()
    lines[4] = lines[4].rpartition(",")[0]
    (folder / "tasks.csv").write_text("\n".join(lines))


def damaged_image(content):
    def make(folder, rows):
        (folder / "bad.png").write_bytes(content)
        rows[3]["image"] = "bad.png"
        write_csv(folder, rows)

    return make


def special_image(make_file):
    def make(folder, rows):
        make_file(folder / "odd.png")
        rows[3]["image"] = "odd.png"
        write_csv(folder, rows)

    return make


def deep_image(folder, rows):
    Image.new("F", (4, 4)).save(folder / "deep.tiff")
    rows[3]["image"] = "deep.tiff"
    write_csv(folder, rows)


def half(column, values):
    """A column with one of two values in turn."""

    def make(folder, rows):
        for number, row in enumerate(rows):
            row[column] = values[number % 2]
        write_csv(folder, rows)

    return make


def by_task(column, values):
    """A column with a value for each task, in turn."""

    def make(folder, rows):
        tasks = list(dict.fromkeys(row["task"] for row in rows))
        for row in rows:
            row[column] = values[tasks.index(row["task"]) % len(values)]
        write_csv(folder, rows)

    return make


def both_tables(folder, rows):
    write_csv(folder, rows)
    write_jsonl(folder, rows)


def twice(folder, rows):
    with (folder / "tasks.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["task", "image", "answer", "answer"], ["a", "b", "c", "d"]])


def two_subsets(folder, rows):
    """The first image of a task in both of its subsets."""
    for row in rows:
        row["subset"] = "support"
    write_csv(folder, [*rows, {**rows[0], "subset": "query"}])


HEADER = "task,image,answer\n"
# name: (how the folder is made, what is said of it)
BAD = {
    "no table": (lambda folder, rows: None, ["has no tasks.csv, tasks.jsonl or tasks.parquet"]),
    "two tables": (both_tables, ["has tasks.csv and tasks.jsonl: keep one of them"]),
    "a folder as table": (
        lambda folder, rows: (folder / "tasks.csv").mkdir(),
        ["tasks.csv is no file"],
    ),
    "empty": (raw("tasks.csv", ""), ["lacks task, image, answer"]),
    "only a header": (raw("tasks.csv", HEADER), ["has no rows"]),
    "semicolons": (raw("tasks.csv", "task;image;answer\n"), ["separated by commas"]),
    "other columns": (
        raw("tasks.csv", "question,image,label\n"),
        ["the columns question, image, label and lacks task, answer"],
    ),
    "a column twice": (twice, ["has the column answer twice"]),
    "another encoding": (
        raw("tasks.csv", HEADER.encode() + "Où?,a.png,là\n".encode("latin-1")),
        ["is no text in UTF-8"],
    ),
    "quotes without end": (
        raw("tasks.csv", HEADER + 'a?,b.png,"c\n'),
        ["damaged CSV", "line 2: ", "the rest is not read"],
    ),
    "a short row": (cut_row, ["rows of another length", "line 5: 2 cells, where the header has 3"]),
    "no JSON": (raw("tasks.jsonl", "{]\n"), ["lines that are no JSON object", "line 1: "]),
    "a list": (raw("tasks.jsonl", "[1]\n"), ["line 1: an object is expected"]),
    "a key twice": (
        raw("tasks.jsonl", '{"task": "a", "task": "b", "image": "c", "answer": "d"}'),
        ["line 1: 'task' stands in it twice"],
    ),
    "no text": (
        changed(write_jsonl, answer=[1.5]),
        ["line 4: answer is [1.5], a text is expected"],
    ),
    "half a letter": (
        raw("tasks.jsonl", json.dumps({"task": "\ud800", "image": "a", "answer": "b"})),
        ["line 1: task is '\\ud800', a text is expected"],
    ),
    "no Parquet": (raw("tasks.parquet", b"PAR1PAR1"), ["is damaged, it is no Parquet"]),
    "numbers in Parquet": (
        lambda folder, rows: write_parquet(folder, [{**r, "answer": 0.5} for r in rows]),
        ["values that are no text", "row 1: answer is 0.5"],
    ),
    "empty cells": (changed(answer=" "), ["empty cells (1)", "line 5: without answer"]),
    "another split": (
        every(split="dev"),
        ["unknown splits (360)", "line 2: split is 'dev', one of train, validation, test"],
    ),
    "another subset": (changed(subset="both"), ["line 5: subset is 'both', one of support, query"]),
    "subsets for some": (
        changed(subset="query"),
        ["subsets for some", "line 5: subset 'query'"],
    ),
    "a template without a place": (
        every(template="it is so"),
        ["templates without a place (360)", "line 2: 'it is so' has no {}"],
    ),
    "two templates": (
        half("template", ["a {}", "b {}"]),
        ["values that differ within a task", "line 3: template 'b {}' of", "'a {}' at 2"],
    ),
    "two splits": (half("split", ["train", "test"]), ["line 3: split 'test' of", "'train' at 2"]),
    "splits for some": (
        by_task("split", ["train", ""]),
        ["too few tasks", "9 of 18 tasks have no split, the first"],
    ),
    "only test tasks": (
        every(split="test"),
        ["too few tasks", "0 tasks of 0 concepts are left"],
    ),
    "a missing image": (changed(image="pictures/none.png"), ["line 5: pictures/none.png"]),
    "a path of the system": (
        changed(image="/etc/passwd"),
        ["line 5: '/etc/passwd', a path inside the folder is expected"],
    ),
    "a path out": (
        changed(image="pictures/../../x.png"),
        ["images outside the folder", "line 5: 'pictures/../../x.png'"],
    ),
    "a folder as image": (changed(image="pictures"), ["line 5: pictures is no regular file"]),
    "a pipe as image": (special_image(os.mkfifo), ["line 5: odd.png is no regular file"]),
    "a device as image": (
        special_image(lambda path: path.symlink_to("/dev/zero")),
        ["line 5: odd.png is no regular file"],
    ),
    "an empty image": (damaged_image(b""), ["images that cannot be read", "bad.png is no image"]),
    "a text as image": (damaged_image(b"hello"), ["images that cannot be read", "bad.png is no"]),
    "an image cut off": (
        damaged_image(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x18\x00\x00"),
        ["images that cannot be read", "bad.png"],
    ),
    "an image of floats": (deep_image, ["deep.tiff cannot be decoded", "convert it to 8 or 16"]),
    "two answers": (
        added({"answer": "mauve"}),
        ["images with two answers to one task (1)", "line 362: ", "'mauve', and ", "at 2"],
    ),
    "support and query": (
        two_subsets,
        ["images in both support and query of a task (1)", "line 362: ", "support at 2"],
    ),
    "one answer": (
        every(answer="yes"),
        ["tasks with fewer than two answers, left out (18)", "too few tasks"],
    ),
    "no query": (
        every(subset="support"),
        ["tasks without query examples, left out (18)", "too few tasks"],
    ),
    "two tasks": (
        lambda folder, rows: write_csv(folder, rows[:40]),
        ["too few tasks", "2 tasks of 2 concepts are left, of which own_tasks.test_share=0.15"],
    ),
    "answers alike": (
        changed(answer="RED "),
        ["answers that differ only in case or spaces (1)", "line 5: 'RED' of", "'red' at "],
    ),
    "candidates alike": (
        every(answers="red|green|Red|blue|left|right"),
        ["answers that differ only in case or spaces (18)", "line 2: 'Red' of", "'red' at 2"],
    ),
    "columns in capitals": (
        raw("tasks.csv", "Task,Image,Answer\na,b,c\n"),
        ["task, image, answer are expected, in lower case"],
    ),
    "a table of another name": (
        raw("labels.csv", HEADER),
        ["has no tasks.csv, tasks.jsonl or tasks.parquet, but labels.csv"],
    ),
    "a Windows path": (
        changed(image="pictures\\001.png"),
        ["line 5: pictures\\001.png (write / between folders)"],
    ),
    "a path in capitals": (
        changed(image="pictures/001.PNG"),
        ["line 5: pictures/001.PNG (there is 001.png)"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_folder(name, own, tmp_path, capsys):
    folder, rows = own
    make, expected = BAD[name]
    make(folder, rows)
    before = sorted(folder.rglob("*"))
    assert main(["check", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert err.splitlines()[-1].startswith("hyper-meta: ") and "Traceback" not in err
    for said in expected:
        assert said in out + err, said
    command = ["run", "--config", CONFIG, f"--config.data_dir={folder}", "--workdir"]
    encoder = f"--config.encoder={bundled_encoder_path()}"
    assert main([*command, str(tmp_path / "run"), encoder, "--config.compilation_cache="]) == 2
    err = capsys.readouterr().err
    assert str(folder) in err or "image bad.png" in err or "image deep.tiff" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "config.json").exists()
    left = {path for path in folder.rglob("*") if "features" not in path.parts}
    assert left == set(before)
    assert not list(folder.glob("features/own_tasks-????????????/*"))


def test_a_cell_cannot_write_a_list_of_its_own(own, capsys):
    folder, rows = own
    rows[3]["image"] = "none\nto mend:\n  \x1b[31mfake.png"
    write_csv(folder, rows)
    assert main(["check", str(folder)]) == 2
    out = capsys.readouterr().out
    assert r"none\nto mend:\n  \x1b[31mfake.png" in out and out.count("\nto mend:") == 1


def test_no_folder(tmp_path, capsys):
    for place, said in ((tmp_path / "none", "does not exist"), (tmp_path / "file", "is a file")):
        (tmp_path / "file").write_text("")
        assert main(["check", str(place)]) == 2
        assert f"{place} {said}: a folder with tasks.csv" in capsys.readouterr().err


def test_overrides_need_a_configuration(own, capsys):
    with pytest.raises(SystemExit):
        main(["check", str(own[0]), "--config.own_tasks.test_share=0.5"])
    assert "unknown argument --config.own_tasks.test_share" in capsys.readouterr().err
