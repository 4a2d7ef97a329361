"""How accurate generated networks are with fewer training tasks, and with fewer examples of each.

    python examples/digits_folder.py digits
    python examples/learning_curve.py digits curve

Trains one generator (the method conditional_tokens) on parts of Digits-VQA, always tested on the
same test tasks. Training tasks are left out by their concept, with all its wordings.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

CONFIG = Path(__file__).parents[1] / "configs" / "own_tasks.py"
CONCEPTS = (5, 10, 20, 40, 81)  # of training tasks, each in four wordings
EXAMPLES = (12, 25, 50, 100, 200)  # of a training task, of all concepts
SETTINGS = (
    *("encoder=bundled", "methods=references,conditional_tokens"),
    *("conditional_tokens.num_steps=880", "conditional_tokens.chunk_steps=55"),
)


def thinned(rows: list[dict[str, str]], concepts: int, examples: int | None) -> list[dict]:
    """The rows of some training concepts, so many examples of each training task, and all rows of
    other tasks."""
    rng = np.random.default_rng(0)
    training = [row for row in rows if row["split"] == "train"]
    names = sorted({row["concept"] for row in training})
    chosen = {names[place] for place in rng.permutation(len(names))[:concepts]}
    by_task: dict[str, list[dict]] = {}
    for row in training:
        if row["concept"] in chosen:
            by_task.setdefault(row["task"], []).append(row)
    kept = []
    for task in by_task.values():
        for subset, share in (("support", 0.7), ("query", 0.3)):
            part = [row for row in task if row["subset"] == subset]
            most = None if examples is None else max(2, round(share * examples))
            kept += [part[place] for place in rng.permutation(len(part))[:most]]
    return [*kept, *(row for row in rows if row["split"] != "train")]


def run(digits: Path, folder: Path, rows: list[dict]) -> dict[str, dict]:
    """{row id: its accuracies by group} of the test tasks, after training on some rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for place in ("train", "validation", "test"):
        if not (folder / place).exists():
            (folder / place).symlink_to((digits / place).absolute())
    with (folder / "tasks.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    overrides = [f"--config.{setting}" for setting in (f"data_dir={folder}", *SETTINGS)]
    command = ["report", "--config", CONFIG, "--workdir", folder / "run", *overrides]
    command = [sys.executable, "-m", "hyper_meta", *map(str, command)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    summaries = json.loads((folder / "run" / "results.json").read_text())["summaries"]["test"]
    return {name: groups["all"] for name, groups in summaries.items()}


def main(digits: Path, folder: Path) -> None:
    with (digits / "tasks.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    print("| training concepts (tasks) | examples a task | all | paraphrase | composition |")
    print("|---:|---:|---:|---:|---:|")
    points = [(concepts, None) for concepts in CONCEPTS]
    for concepts, examples in [*points, *((CONCEPTS[-1], number) for number in EXAMPLES)]:
        some = thinned(rows, concepts, examples)
        tasks = len({row["task"] for row in some if row["split"] == "train"})
        found = run(digits, folder / f"{concepts}-{examples or 'all'}", some)["conditional_tokens"]
        figures = [f"{found[group]['mean']:.1f}" for group in ("all", "paraphrase", "composition")]
        cells = (f"{concepts} ({tasks})", str(examples or "all"), *figures)
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/learning_curve.py DIGITS FOLDER")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
