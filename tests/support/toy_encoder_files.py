"""The files of an encoder in the newer forms that transformers writes."""

import json

from safetensors.numpy import load_file, save


def sharded(folder, *, parts=2):
    """{name: content} of the weights of a folder in several files and their index, as transformers
    saves large ones."""
    tensors, files, index = load_file(folder / "model.safetensors"), {}, {}
    for part in range(parts):
        name = f"model-{part + 1:05d}-of-{parts:05d}.safetensors"
        held = {key: tensors[key] for key in sorted(tensors)[part::parts]}
        files[name] = save(held, metadata={"format": "pt"})
        index |= dict.fromkeys(held, name)
    content = {"metadata": {"total_size": sum(map(len, files.values()))}, "weight_map": index}
    return files | {"model.safetensors.index.json": json.dumps(content).encode()}
