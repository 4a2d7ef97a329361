"""How long a folder of many pictures takes, and how much memory: checked, encoded, stopped half-way
and gone on with, trained a few steps.

    python tests/many_images.py --images 50000 --tasks 1000

Prints seconds and the largest resident memory of each command.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from toy_pictures import write_csv  # noqa: E402

SIZE = (320, 240)
SETTINGS = (
    *("encoder=bundled", "methods=references,conditional_tokens", "evaluate.shots="),
    *("conditional_tokens.num_steps=22", "conditional_tokens.chunk_steps=11"),
    *("evaluate.few_shot_guides=", "evaluate.control_guides=", "compilation_cache="),
)


def draw(folder, number):
    rng = np.random.default_rng(number)
    small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    path = folder / f"pictures/{number // 1000:03d}/{number:06d}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).resize(SIZE).save(path, quality=90)


def rows(num_images, num_tasks):
    rng = np.random.default_rng(0)
    for task in range(num_tasks):
        for number in rng.choice(num_images, 200, replace=False):
            image = f"pictures/{number // 1000:03d}/{number:06d}.jpg"
            answer = ("yes", "no", "two")[rng.integers(3)]
            yield {"task": f"Is this question number {task}?", "image": image, "answer": answer}


def measured(name, command, kill_after=None):
    """Runs a command of hyper-meta; prints its seconds and its memory."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "hyper_meta", *command], cwd=ROOT)
    if kill_after is not None:
        time.sleep(kill_after)
        process.send_signal(signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds, memory = time.perf_counter() - start, usage.ru_maxrss / 2**20
    code = os.waitstatus_to_exitcode(status)
    print(f"{name}: {seconds:.0f} s, {memory:.2f} GiB, exit code {code}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--kill-after", type=float, default=60, help="seconds of encoding")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        with ProcessPoolExecutor() as pool:
            numbers = range(arguments.images)
            list(pool.map(draw, [folder] * len(numbers), numbers, chunksize=500))
        write_csv(folder, list(rows(arguments.images, arguments.tasks)))
        data = [f"--config.{setting}" for setting in (f"data_dir={folder}", *SETTINGS)]
        config = ["--config", "configs/own_tasks.py", *data]
        measured("check", ["check", str(folder)])
        measured("prepare, killed", ["prepare", *config], kill_after=arguments.kill_after)
        measured("prepare, gone on with", ["prepare", *config])
        measured("prepare, nothing new", ["prepare", *config])
        measured("train", ["train", *config, "--workdir", str(folder / "run")])


if __name__ == "__main__":
    main()
