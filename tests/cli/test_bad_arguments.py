"""Command lines that are refused before anything is computed, and what the line says of each."""

import shlex
import shutil
from pathlib import Path

import pytest
from toy_run import make_images, make_run

from hyper_meta.cli.main import main

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = {
    "text": "hello",
    "empty.py": "",
    "syntax.py": "def get_config(:",
    "raises.py": "def get_config():\n    raise KeyError('x')",
    "none.py": "def get_config():\n    return None",
    "dict.py": "def get_config():\n    return {'a': 1}",
    "exits.py": "import sys\nsys.exit(3)",
}
# (override of the quickstart, what is said)
OVERRIDES = [
    ("hnet.learning_rates=", "a tuple of float such as 0.001 is expected"),
    ("hnet.learning_rates=0.1,,0.2", "a tuple of float such as 0.001 is expected"),
    ("hnet.learning_rates=0", "hnet.learning_rates=0.0 given, a number above 0 is"),
    ("hnet.learning_rates=-1", "hnet.learning_rates=-1.0 given, a number above 0 is"),
    ("hnet.learning_rates=inf", "a tuple of float such as 0.001 is expected"),
    ("hnet.learning_rates=nan", "a tuple of float such as 0.001 is expected"),
    ("hnet.num_steps=0", "hnet.num_steps=0 is too small, 1 is least"),
    ("hnet.num_steps=1e9", "a whole number such as 330 is expected"),
    ("hnet.num_steps=2.5", "a whole number such as 330 is expected"),
    ("hnet.batch_size=0", "hnet.batch_size=0 is too small, 1 is least"),
    ("hnet.hidden_dims=", "a tuple of int such as 128,128,128 is expected"),
    ("hnet.hidden_dims=0", "hnet.hidden_dims=0 is too small, 1 is least"),
    ("hnet.latent_dim=0", "hnet.latent_dim=0 is too small, 1 is least"),
    ("hnet.inner_steps=-1", "hnet.inner_steps=-1 is too small, 0 is least"),
    ("hnet.weight_decay=-1000", "unknown setting, did you mean"),
    ("hnet.ema_decay=1", "hnet.ema_decay=1.0 given, a number of at least 0 and"),
    ("hnet.ema_decay=2", "hnet.ema_decay=2.0 given, a number of at least 0 and"),
    ("hnet.patience=-1", "hnet.patience=-1 is too small, 0 is least"),
    ("hnet.objective=mamal", "unknown setting, did you mean"),
    ("num_seeds=0", "num_seeds=0 is too small, 1 is least"),
    ("num_seeds=99999999999", "num_seeds=99999999999 from seed=0 ends at seed"),
    ("methods=", "a tuple of str such as"),
    ("methods=all", "method 'all' given"),
    ("dataset=", "dataset='' given, one of ['digits_vqa', 'meta_vqa',"),
    ("dataset=mnist", "dataset='mnist' given, one of ['digits_vqa', 'meta_vqa',"),
    ("data_dir=", "data_dir is empty, a text is expected"),
    ("encoder=", "encoder is empty: dataset=digits_vqa has images"),
    ("encoder={T}/text", "encoder folder text does not exist"),
    ("encoder_dtype=float64", "encoder_dtype='float64' given, one of ['bfloat16',"),
    ("image_resize=stretch", "image_resize='stretch' given, one of ['crop', 'square']"),
    ("question_encoder={T}/dir", "sentence encoder dir: model.safetensors is missing"),
    ("question_layer=99", "question_layer=99 and question_prefix='' are of a"),
    ("validation_share=0", "validation_share=0.0 is no share, a number from above 0"),
    ("checkpoint_every=0", "checkpoint_every=0 is too small, 1 is least"),
    ("network.name=resnet", "network 'resnet' given, one of ['adapter', 'low_rank',"),
    ("network.hidden_dim=0", "network.hidden_dim=0 is too small, 1 is least"),
    ("network.blend=nan", "network.blend=nan is no finite number"),
    ("network.blend=true", "a number such as 1.0 is expected"),
    ("batching.num_layouts=0", "batching.num_layouts=0 is too small, 1 is least"),
    ("batching.max_support=0", "batching.max_support=0 is too small, 1 is least"),
    ("batching.feature_noise=-3", "batching.feature_noise=-3.0 given, a number of at least 0"),
    ("hyperldm_tokens.guidance_scale=big", "a number is expected"),
    ("hyperldm_tokens.drop_rate=1.5", "hyperldm_tokens.drop_rate=1.5 is no share, a number from"),
    ("hyperldm_tokens.schedule=linearly", "hyperldm_tokens.schedule='linearly' given, one of"),
    ("hyperldm_tokens.prediction=x", "hyperldm_tokens.prediction='x' given, one of ['eps', 'v']"),
    ("hyperldm_tokens.sampler=euler", "unknown setting, did you mean"),
    ("hyperldm_tokens.num_samples=0", "hyperldm_tokens.num_samples=0 is too small, 1 is least"),
    ("hyperldm_tokens.condition=words", "hyperldm_tokens.condition='words' given, one of"),
    ("evaluate.guidance_scales=0", "evaluate.guidance_scales=0.0 given, a number above 0 is"),
    ("evaluate.guidance_scales=", "a tuple of float such as 1.0,2.0,4.0 is expected"),
    ("evaluate.guidance_scales=1,1", "evaluate.guidance_scales has the value 1.0 twice: leave"),
    ("evaluate.num_resamples=1", "evaluate.num_resamples=1 is too small, 40 is least"),
    ("evaluate.shots=0", "evaluate.shots=0 is too small, 1 is least"),
    ("evaluate.few_shot_guides=hnet", "few_shot_guides='hnet' given, one of"),
    ("evaluate.control_guides=nonsense", "control_guides='nonsense' given, one of"),
    ("skip_corrupt_images=maybe", "true or false is expected"),
    ("seed", "a whole number such as 0 is expected"),
    ("=3", "unknown argument --config.=3: see --help"),
    ("hnet=3", "hnet is a group of settings, set one such as"),
    ("hnet.learning_rate=0.1", "unknown setting, did you mean"),
    ("methods=questions,questions", "methods has the value questions twice: leave one out"),
    ("hnet.learning_rates=0.1,0.1", "hnet.learning_rates has the value 0.1 twice: leave one out"),
    ("evaluate.few_shot_steps=2,2", "evaluate.few_shot_steps has the value 2 twice: leave one"),
    ("validation_share=1", "validation_share=1.0 is no share, a number from above 0"),
]
# (command line, what is said); {T}: a folder with FILES and an empty folder "dir"; {R}: a run; {I}:
# an image; {Q}, {B}, {E}: configurations.
LINES = [
    (
        "run --config {Q} --workdir {T}/w --config.seed=4294967295 --config.num_seeds=2",
        "num_seeds=2 from seed=4294967295 ends at seed 4294967296: seeds",
    ),
    (
        "run --config {Q} --workdir {T}/w --config.skip_corrupt_images maybe",
        "--config.skip_corrupt_images maybe: true or false is expected",
    ),
    ("run --config {Q} --workdir {T}/w --config=3", "config file 3 does not exist"),
    ("run --config {Q} --workdir {T}/w --seed 3", "unknown argument --seed: see --help"),
    ("run --config {Q} --workdir {T}/w extra", "unknown argument extra: see --help"),
    (
        "run --config {Q} --workdir {T}/text",
        "text: a file stands where a folder is expected, choose another",
    ),
    (
        "run --config {Q} --workdir {T}/dir/../text/x",
        "cannot write dir/../text/x: a file stands where a folder is",
    ),
    ("run --config {Q} --workdir ''", "argument --workdir: it is empty, a value is expected (see"),
    ("run --config {T}/dir --workdir {T}/w", "config file dir is a folder, a file is expected"),
    (
        "run --config {T}/text --workdir {T}/w",
        "config file text failed at line 1: NameError: name 'hello' is not",
    ),
    ("run --config {T}/empty.py --workdir {T}/w", "config file empty.py defines no get_config()"),
    (
        "run --config {T}/syntax.py --workdir {T}/w",
        "config file syntax.py failed at line 1: SyntaxError: invalid",
    ),
    (
        "run --config {T}/raises.py --workdir {T}/w",
        "config file raises.py failed at line 2: KeyError: 'x'",
    ),
    (
        "run --config {T}/none.py --workdir {T}/w",
        "get_config() of none.py returns a NoneType, a ConfigDict is",
    ),
    (
        "run --config {T}/dict.py --workdir {T}/w",
        "get_config() of dict.py returns a dict, a ConfigDict is expected",
    ),
    (
        "run --config {T}/exits.py --workdir {T}/w",
        "config file exits.py failed at line 2: SystemExit: 3",
    ),
    (
        "run --config /dev/null --workdir {T}/w",
        "config file /dev/null is a device, a pipe or a socket, a file is",
    ),
    (
        "run --config {B} --workdir {T}/w",
        "the configuration has an unknown setting more, did you mean mnet?",
    ),
    ("train --config {Q} --workdir {T}/w --method nothing", "'nothing'"),
    (
        "train --config {Q} --workdir {T}/w --method ''",
        "argument --method: it is empty, a value is expected (see",
    ),
    ("train --config {Q} --workdir {T}/w --method hnet,film", "'hnet,film'"),
    (
        "evaluate --workdir {T}/dir",
        "dir holds no run, it has no config.json: name the configuration",
    ),
    (
        "report --workdir {T}/none",
        "none holds no run, it has no config.json: name the configuration",
    ),
    (
        "generate --workdir {T}/dir --task q --out {T}/o",
        "dir holds no run, it has no config.json: name the folder of a run, or of a model",
    ),
    (
        "generate --model {T}/dir --task q --out {T}/o",
        "dir holds no run, it has no config.json: name the folder of a run, or of a model",
    ),
    ("generate --model {T}/none --task q --out {T}/o", "none holds no run, it has no config.json"),
    ("generate --model hf://none --task q --out {T}/o", "'none' given, a name such as"),
    (
        "generate --model {R} --workdir {R} --task q --out {T}/o",
        "argument --workdir: not allowed with argument --model",
    ),
    ("export-model --workdir {T}/dir --out {T}/o", "dir holds no run, it has no config.json"),
    ("export-model --workdir {R} --out {T}", "exists: remove it or choose another folder"),
    ("export-model --workdir {R} --out {I}", "exists: remove it or choose another folder"),
    ("export-model --workdir {R} --out {T}/o --method fim", "method 'fim' given, this run has"),
    ("export-model --workdir {R} --out {T}/o --push-to-hub me", "'me' given, a name such as you/"),
    (
        "predict --weights {I} --answers a,b --json --csv {I}",
        "argument --csv: not allowed with argument --json",
    ),
    ("predict --weights {I} --answers a,b {T}/dir", "the folder dir holds no images, such as .png"),
    ("generate --workdir {R} --task q --out {T}/dir", "cannot write dir: it is a folder"),
    (
        "generate --workdir {R} --task q --out ''",
        "argument --out: it is empty, a value is expected (see hyper-meta",
    ),
    (
        "generate --workdir {R} --task q --out {T}/text",
        "text exists, and is not a weights file of hyper-meta: remove it,",
    ),
    (
        "generate --workdir {R} --task q --out /dev/null",
        "cannot write /dev/null: it is a device, a pipe or a socket, and",
    ),
    (
        "generate --workdir {R} --task q --out {R}/config.json",
        "run/config.json exists, and is not a weights file of",
    ),
    (
        "generate --workdir {R} --task q --out {T}/text/o",
        "cannot write text/o: a file stands where a folder is expected,",
    ),
    (
        "generate --workdir {R} --task q --out {T}/o --method none",
        "method 'none' given, this run has",
    ),
    (
        "generate --workdir {R} --task q --out {T}/o --method ridge --guidance-scale 2",
        "guidance scale 2 given, ridge has none: leave it out, or choose a",
    ),
    (
        "generate --workdir {R} --task q --out {T}/o --method conditional --samples 5",
        "5 samples asked for, conditional generates one network for a",
    ),
    (
        "generate --workdir {R} --task q --out {T}/o --samples 100000000000",
        "100,000,000,000 networks of 137 weights takes at least 102,073.0",
    ),
    (
        "generate --workdir {R} --task q --out {T}/o --samples 1.5",
        "argument --samples: invalid int value: '1.5' (see hyper-meta",
    ),
    (
        "generate --workdir {R} --task q --out {T}/o --seed abc",
        "argument --seed: invalid int value: 'abc' (see hyper-meta",
    ),
    (
        "generate --workdir {R} --task q --out {T}/o --seed 1e3",
        "argument --seed: invalid int value: '1e3' (see hyper-meta",
    ),
    (
        "generate --workdir {R} --task q --out {T}/o --template ''",
        "the template is '', a sentence with {} in the answer's place is",
    ),
    (
        "generate --workdir {R} --task q --out {T}/o --template '{{'",
        "the template is '{', a sentence with {} in the answer's place is",
    ),
    (
        "generate --workdir {R} --task q --task Q --out {T}/o",
        "the task 'Q' is given twice: leave one out",
    ),
    (
        "generate --workdir {R} --out {T}/o",
        "the arguments --task or --tasks are required (see hyper-meta",
    ),
    (
        "generate --workdir {R} --tasks {T}/none.txt --out {T}/o",
        "cannot read none.txt: No such file or directory",
    ),
    (
        "generate --workdir {R} --tasks /dev/zero --out {T}/o",
        "/dev/zero is no file: a text file is expected",
    ),
    ("predict --weights {T}/none --answers a,b {I}", "weights file none does not exist"),
    (
        "predict --weights {T}/text --answers a,b {I}",
        "text is damaged or no weights file of hyper-meta: Error while",
    ),
    (
        "predict --weights {T}/dir --answers a,b {I}",
        "weights file dir is a folder, a file is expected",
    ),
    (
        "predict --weights /dev/zero --answers a,b {I}",
        "weights file /dev/zero is a device, a pipe or a socket, a file is",
    ),
    (
        "predict --weights {I} --answers a,b {I}",
        "scene0.png is damaged or no weights file of hyper-meta: Error",
    ),
    (
        "predict --weights {T}/text --answers a {I}",
        "1 answer given, two or more are expected: ['a']",
    ),
    (
        "predict --weights {T}/text --answers '' {I}",
        "1 answer given, two or more are expected",
    ),
    (
        "predict --weights {T}/text --answers a,b",
        "the following arguments are required: IMAGE (see hyper-meta",
    ),
    (
        "predict --weights {T}/text --answers a,b --template x {I}",
        "the template is 'x', a sentence with {} in the answer's place is",
    ),
    ("compare {T}/dir {T}/none", "dir holds no results.json: give the --workdir of a run that has"),
    ("compare {T}/text", "the following arguments are required: B (see hyper-meta compare"),
    ("compare {R} {R} --row none", "unknown argument --row (see hyper-meta compare --help)"),
    (
        "sweep --config {Q} --workdir {T}/w",
        "the following arguments are required: --grid (see hyper-meta",
    ),
    (
        "sweep --config {Q} --workdir {T}/w --grid hnet",
        "--grid hnet lacks a value: NAME=VALUE,VALUE is expected",
    ),
    (
        "sweep --config {Q} --workdir {T}/w --grid hnet.num_steps=",
        "--grid hnet.num_steps= lacks a value: NAME=VALUE,VALUE is expected",
    ),
    (
        "sweep --config {Q} --workdir {T}/w --grid hnet.num_steps=1,b",
        "--grid hnet.num_steps=b: a whole number such as 1 is expected",
    ),
    (
        "sweep --config {Q} --workdir {T}/w --grid hnet.num_stepz=1",
        "--grid hnet.num_stepz=1: unknown setting, did you mean",
    ),
    (
        "sweep --config {Q} --workdir {T}/w --grid seed=1,1",
        "--grid seed=1,1 has the value 1 twice: remove one",
    ),
    (
        "sweep --config {Q} --workdir {T}/dir/.. --grid seed=1",
        "dir/.. is not empty and holds no sweep: choose another --workdir",
    ),
    ("prepare --config {T}/none.py", "get_config() of none.py returns a NoneType, a ConfigDict is"),
    (
        "prepare --config {Q} --data-dir {T}/text",
        "text: a file stands where a folder is expected, choose another",
    ),
    (
        "pretrain --config {Q} --workdir {T}/w --out {T}/o",
        "this configuration is not of an encoder: take one such as",
    ),
    (
        "pretrain --config {E} --workdir {T}/w --out {T}/text",
        "text exists: remove it or choose another --out",
    ),
    (
        "pretrain --config {E} --workdir {T}/w --out {T}/o --config.num_steps=-5",
        "num_steps=-5 is too small, 1 is least",
    ),
    ("benchmark --config {B} --only nothing", "expected parts of"),
    ("benchmark --config {B} --out {T}/dir", "cannot write dir: it is a folder"),
    ("benchmark --config {Q}", "the configuration lacks the settings more: take a file of"),
    ("methods extra", "unknown argument extra (see hyper-meta methods --help)"),
    ("help", "argument COMMAND: invalid choice: 'help' (choose from 'run',"),
    ("--verison", "the following arguments are required: COMMAND (see hyper-meta"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """What stands for the braces of LINES."""
    folder = tmp_path_factory.mktemp("bad")
    for name, content in FILES.items():
        (folder / name).write_text(content)
    (folder / "dir").mkdir()
    names = {"Q": "quickstart.py", "B": "benchmark.py", "E": "encoder.py"}
    run, (image,) = make_run(folder / "model"), make_images(folder, 1)
    return {"T": folder, "R": run, "I": image, **{key: CONFIGS / names[key] for key in names}}


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: path.stat().st_mtime_ns for path in files if path.suffix != ".pyc"}


def said(line, places, capsys):
    """The one line on stderr of a command that is refused, without the folder of the test."""
    before = contents(places["T"])
    try:
        code = main(shlex.split(line.format(**places)))
    except SystemExit as stopped:
        code = stopped.code
    out, err = capsys.readouterr()
    assert code == 2 and out == "" and err.startswith("hyper-meta: ") and err.count("\n") == 1
    shutil.rmtree(places["T"] / "w", ignore_errors=True)  # it may hold a lock that was let go
    assert contents(places["T"]) == before
    return err.replace(f"{places['T']}/", "")


@pytest.mark.parametrize("override, words", OVERRIDES)
def test_an_override(override, words, places, capsys):
    line = f"run --config {{Q}} --workdir {{T}}/w --config.{override}"
    assert words in said(line, places, capsys)


@pytest.mark.parametrize("line, words", LINES)
def test_a_command_line(line, words, places, capsys):
    assert words in said(line, places, capsys)
