"""Digits-VQA as a folder of tasks, the format of your own: pictures, and a table tasks.csv.

    python examples/digits_folder.py digits
    hyper-meta check digits
    hyper-meta run --config configs/own_tasks.py --config.data_dir=digits \\
        --config.encoder=bundled --workdir runs/folder

--config.own_tasks.shuffle=False keeps the examples of a task in the order of the table; the tasks
are then those of the built-in data set.
"""

import csv
import sys
from pathlib import Path

from hyper_meta.data.own_tasks.table import COLUMNS, SEPARATOR
from hyper_meta.data.source import Source
from hyper_meta.data.tasks import Task


def rows_of(task: Task, split: str) -> list[dict[str, str]]:
    """The rows of a task, one for each labelled picture."""
    about = {
        "task": task.sentence,
        "split": split,
        "template": task.template,
        "family": task.family,
        "group": task.group,
        "concept": task.concept,
        "answers": SEPARATOR.join(task.answers),
    }
    return [
        about | {"image": f"{image}.png", "answer": task.answers[answer], "subset": subset}
        for subset, examples in (("support", task.support), ("query", task.query))
        for image, answer in examples
    ]


def write_folder(data: Source, folder: Path) -> None:
    """The pictures and the table of a data set."""
    for image, content in data.read_images(0):
        path = folder / f"{image}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with (folder / "tasks.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for split, tasks in data.tasks.items():
            for task in tasks:
                table.writerows(rows_of(task, split))


if __name__ == "__main__":
    from hyper_meta.data.datasets import open_data_set

    if len(sys.argv) != 2:
        sys.exit("usage: python examples/digits_folder.py FOLDER")
    cache = Path("~/.cache/hyper_meta").expanduser()
    write_folder(open_data_set("digits_vqa", cache), Path(sys.argv[1]))
