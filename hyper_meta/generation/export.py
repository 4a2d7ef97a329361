"""Generated networks for programs without this package: arrays with a short module of numpy or
PyTorch, or ONNX."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hyper_meta.core.errors import UserError
from hyper_meta.core.files import check_empty, whole_folder
from hyper_meta.generation.weights_file import Weights
from hyper_meta.networks.base import LOGIT_SCALE
from hyper_meta.networks.from_flax import VECTOR_SCALE

FORMS = ("npz", "torch", "onnx")
ARRAYS, MODULE, ONNX = "network.npz", "network.py", "network.onnx"
TINY = 1e-12  # below any norm of features; see core.losses.normalise
EPSILON = 1e-6  # of flax's layer norm
MISSING = "the package `onnx` is not installed: pip install 'hyper_meta[onnx]'"

# y = f(x) of each network, in the arrays of `_arrays`.
FORMULAS = {
    "adapter": """\
    return x + relu(x @ w["W1"] + w["b1"]) @ w["W2"] + w["b2"]
""",
    "low_rank": """\
    return x + x @ w["A"] @ w["B"]
""",
    "two_layers": f"""\
    h = x @ w["W1"] + w["b1"]
    h = h - h.mean(axis=-1, keepdims=True)
    h = h / ((h * h).mean(axis=-1, keepdims=True) + {EPSILON}) ** 0.5 * w["scale"] + w["shift"]
    h = relu(relu(h) @ w["W2"] + w["b2"])
    return x + h @ w["W3"] + w["b3"]
""",
}
# The names that flax gives the parameters of two_layers.
FLAX_NAMES = {
    **{f"Dense_{n}/kernel": f"W{n + 1}" for n in range(3)},
    **{f"Dense_{n}/bias": f"b{n + 1}" for n in range(3)},
    **{"LayerNorm_0/scale": "scale", "LayerNorm_0/bias": "shift"},
}
LOADING = {
    "npz": "import numpy as xp\n\nARRAYS = dict(xp.load(Path(__file__).with_name({arrays!r})))\n",
    "torch": (
        "import numpy as np\nimport torch as xp\n\n"
        "ARRAYS = dict(np.load(Path(__file__).with_name({arrays!r})))\n"
        "ARRAYS = {{name: xp.from_numpy(array) for name, array in ARRAYS.items()}}\n"
    ),
}
CODE = '''\
"""{described}"""

from pathlib import Path

{loading}

def relu(x):
    return x.clip(min=0)


def adapt(w, x):
{formula}

def cosines(x, t):
    x, t = (a / ((a * a).sum(axis=-1, keepdims=True) + {tiny}) ** 0.5 for a in (x, t))
    return {scale} * x @ t.T


def logits_of(w, features, answers):
    base = cosines(features, answers)
    return base + {blend} * (cosines(adapt(w, features), answers) - base)

{answering}'''


# What one network says, or several by the mean of their log-probabilities.
ONE = """
def logits(features, answers):
    \"\"\"float32 features [N, {width}] of images and answers [A, {width}] -> logits [N, A].\"\"\"
    return logits_of(ARRAYS, features, answers)
"""
SEVERAL = """
def log_probabilities(z):
    z = z - xp.amax(z, axis=-1, keepdims=True)
    return z - xp.log(xp.exp(z).sum(axis=-1, keepdims=True))


def logits(features, answers):
    \"\"\"float32 features [N, {width}] of images and answers [A, {width}] -> logits [N, A].\"\"\"
    networks = [{{name: array[row] for name, array in ARRAYS.items()}} for row in range({num})]
    found = [log_probabilities(logits_of(w, features, answers)) for w in networks]
    return sum(found) / len(found)
"""


def export_weights(weights: Weights, form: str, out: Path) -> None:
    """Writes a folder with the networks that answer, all of it or nothing: the mean one, or all
    samples where they vote, whose logits are then means of log-probabilities, as in `predict`.

    form: one of FORMS. out: new, or empty. Raises UserError for a network whose formula is not
    known here, and where a package that is needed is not installed.
    """
    name = weights.network.name
    if name not in FORMULAS:
        raise UserError(
            f"the weights are of a network {name!r}, of which no formula is known: "
            f"{', '.join(FORMULAS)} can be exported"
        )
    check_empty(out)
    arrays = _arrays(weights)
    if form == "onnx":
        content = {ONNX: _onnx(weights, arrays)}
    else:
        file = io.BytesIO()
        np.savez(file, **arrays)
        content = {ARRAYS: file.getvalue(), MODULE: _module(weights, form).encode()}
    with whole_folder(out, failure=f"cannot write {out}", is_new=True) as folder:
        for file_name, written in content.items():
            (folder / file_name).write_bytes(written)


def _arrays(weights: Weights) -> dict[str, np.ndarray]:
    """The layers of the network, or of K that vote, [K, ...], float32, with the scales of
    `BaseNetwork.adapt` in them."""
    network = weights.network
    rows = weights.samples if weights.votes else weights.weights[None]
    arrays = {}
    for layer, values in network.split(rows).items():
        values, kind = np.asarray(values, np.float64), layer.rpartition("/")[2]
        if network.name == "two_layers" and values.ndim == 2:  # vectors
            values = VECTOR_SCALE * values + (1.0 if kind == "scale" else 0.0)
        elif values.ndim == 3:
            values = values / np.sqrt(values.shape[1])
        arrays[FLAX_NAMES.get(layer, layer)] = np.ascontiguousarray(values, np.float32)
    return arrays if weights.votes else {name: array[0] for name, array in arrays.items()}


def _module(weights: Weights, form: str) -> str:
    width = weights.network.embed_dim
    answering = SEVERAL if weights.votes else ONE
    return CODE.format(
        described=_described(weights),
        loading=LOADING[form].format(arrays=ARRAYS),
        formula=FORMULAS[weights.network.name].rstrip() + "\n",
        tiny=TINY**2,
        scale=LOGIT_SCALE,
        blend=weights.network.blend,
        answering=answering.format(width=width, num=len(weights.samples)),
    )


def _described(weights: Weights) -> str:
    template = next(iter(weights.templates), "{}")
    task, encoder, sentence = map(json.dumps, (weights.task, weights.encoder.name, template))
    return (
        f"{weights.network.name}, generated by hyper_meta for the task {task}.\n\nFeatures are "
        f"those of the encoder {encoder}, as it gives them: of images, and of\nanswers in a "
        f"sentence such as {sentence}.\n"
    )


def _onnx(weights: Weights, arrays: dict[str, np.ndarray]) -> bytes:
    """A model with the inputs features [N, D] and answers [A, D] and the output logits [N, A]."""
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise UserError(MISSING) from error
    nodes: list[Any] = []
    constants: dict[str, np.ndarray] = {}

    def apply(kind: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"value_{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def constant(value: np.ndarray | float) -> str:
        name = f"constant_{len(constants)}"
        constants[name] = np.asarray(value, np.float32)
        return name

    def cosines(x: str) -> str:
        return apply("Mul", apply("MatMul", _unit(x, apply, constant), answers), constant(scale))

    scale = LOGIT_SCALE
    answers = apply("Transpose", _unit("answers", apply, constant), perm=[1, 0])
    base, found = cosines("features"), []
    for row in range(len(weights.samples) if weights.votes else 1):
        layers = {n: constant(x[row] if weights.votes else x) for n, x in arrays.items()}
        adapted = cosines(ADAPT[weights.network.name](layers, "features", apply, constant))
        moved = apply("Mul", apply("Sub", adapted, base), constant(weights.network.blend))
        logits = apply("Add", base, moved)
        found.append(apply("LogSoftmax", logits, axis=-1) if weights.votes else logits)
    nodes.append(helper.make_node("Mean", found, ["logits"]))
    width = weights.network.embed_dim
    shapes = {"features": ["N", width], "answers": ["A", width], "logits": ["N", "A"]}
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    }
    graph = helper.make_graph(
        nodes,
        "network",
        [values["features"], values["answers"]],
        [values["logits"]],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.doc_string = _described(weights)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _unit(x: str, apply: Callable[..., str], constant: Callable[..., str]) -> str:
    norm = apply("ReduceL2", x, axes=[-1], keepdims=1)
    return apply("Div", x, apply("Max", norm, constant(TINY)))


def _dense(w: str, b: str, x: str, apply: Callable[..., str]) -> str:
    return apply("Add", apply("MatMul", x, w), b)


def _adapter(w: dict[str, str], x: str, apply: Callable, constant: Callable) -> str:
    hidden = apply("Relu", _dense(w["W1"], w["b1"], x, apply))
    return apply("Add", x, _dense(w["W2"], w["b2"], hidden, apply))


def _low_rank(w: dict[str, str], x: str, apply: Callable, constant: Callable) -> str:
    return apply("Add", x, apply("MatMul", apply("MatMul", x, w["A"]), w["B"]))


def _two_layers(w: dict[str, str], x: str, apply: Callable, constant: Callable) -> str:
    hidden = _dense(w["W1"], w["b1"], x, apply)
    inputs = (hidden, w["scale"], w["shift"])
    hidden = apply("Relu", apply("LayerNormalization", *inputs, axis=-1, epsilon=EPSILON))
    hidden = apply("Relu", _dense(w["W2"], w["b2"], hidden, apply))
    return apply("Add", x, _dense(w["W3"], w["b3"], hidden, apply))


# The same as FORMULAS.
ADAPT = {"adapter": _adapter, "low_rank": _low_rank, "two_layers": _two_layers}
