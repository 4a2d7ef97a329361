"""Encoders and models from the Hugging Face Hub: only their files, and weights as safetensors."""

from __future__ import annotations

import fnmatch
import hashlib
import shutil
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import (
    HfApi,
    ModelCard,
    constants,
    hf_hub_download,
    scan_cache_dir,
    snapshot_download,
)
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from hyper_meta.core.arguments import HUB_NAME
from hyper_meta.core.types import UserError
from hyper_meta.encoders.families import CONFIG_FILE, IMAGE_FILE, PROCESSOR_FILE, TOKENIZER_FILES
from hyper_meta.encoders.sentence_layout import MODULES_FILE, PATTERNS, TOKENIZER_FILE, VOCAB_FILE
from hyper_meta.encoders.weights_files import INDEX_FILE, WHOLE_FILE, weights_names
from hyper_meta.encoders.weights_files import PATTERNS as WEIGHTS


class Kind(NamedTuple):
    """patterns: of the files that are wanted; marks: without one of each of these, or with only a
    part of the weights, a folder in the cache may have been left by another program that wanted
    less, or by a download that was cut off. has_weights: whether it has weights by transformers'
    names."""

    patterns: tuple[str, ...]
    marks: tuple[tuple[str, ...], ...]
    has_weights: bool = True


CLIP = Kind(
    (CONFIG_FILE, IMAGE_FILE, PROCESSOR_FILE, *WEIGHTS, *TOKENIZER_FILES),
    (
        *((CONFIG_FILE,), (IMAGE_FILE, PROCESSOR_FILE)),
        ("tokenizer.json", "vocab.json", "spiece.model"),
        ("tokenizer.json", "merges.txt", "spiece.model"),
    ),
)
SENTENCE_ENCODER = Kind(
    PATTERNS,
    ((CONFIG_FILE,), (MODULES_FILE,), ("[0-9]_*/config.json",), (TOKENIZER_FILE, VOCAB_FILE)),
)
CARD = "README.md"
# The Hub's account that opens pull requests with safetensors files in models that have none.
CONVERTER = "SFconvertbot"


def is_hub_name(name: str) -> bool:
    """Whether a name has the form OWNER/MODEL or OWNER/MODEL@REVISION.

    A revision is a branch, tag, commit or pull request, as in
    "openai/clip-vit-base-patch32@refs/pr/21".
    """
    return HUB_NAME.fullmatch(name) is not None


def fetch(name: str, kind: Kind = CLIP) -> Path:
    """The folder of an encoder or a model in Hugging Face's cache, downloaded if it is not there.

    A model without safetensors on its main branch is taken from the pull request in which the Hub
    offers them. The hash of every file is checked at every call.

    Args:
      name: see `is_hub_name`.
      kind: what it is.

    Raises:
      UserError: the model does not exist, cannot be reached or has no safetensors, or a file is
        damaged.
    """
    match = HUB_NAME.fullmatch(name)
    if match is None:
        raise UserError(f"{name!r} given, a name such as openai/clip-vit-base-patch32 is expected")
    repo, revision = match["repo"], match["revision"]
    try:
        folder = _cached(repo, revision, kind) or _download(repo, revision, kind)
    except (HfHubHTTPError, OSError) as error:
        raise UserError(
            f"cannot get {name} from the Hugging Face Hub (downloaded elsewhere, its folder can be "
            f"given): {error}"
        ) from error
    for name in _wanted(folder, kind):
        _check_hash(folder / name)
    return folder


def licence_of(place: str) -> str | None:
    """The licence that the card of an encoder names, README.md of its folder or of its page on the
    Hub, as "apache-2.0"; None where there is no card, or it cannot be reached."""
    path, match = Path(place) / CARD, HUB_NAME.fullmatch(place)
    try:
        if not Path(place).is_dir() and match is not None:
            found = hf_hub_download(match["repo"], CARD, revision=match["revision"], etag_timeout=3)
            path = Path(found)
        licence = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
    except Exception:  # of the network, the disk, or whatever a card holds
        return None
    return licence.license if isinstance(licence.license, str) else None


def copy_files(folder: Path, to: Path, kind: Kind) -> None:
    """Copies what is read of a folder, and no other file that is in it."""
    for name in _wanted(folder, kind):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, to / name)


def _wanted(folder: Path, kind: Kind) -> list[str]:
    names = _file_names(folder)
    return [name for name in names if any(fnmatch.fnmatch(name, part) for part in kind.patterns)]


def _file_names(folder: Path) -> list[str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path.relative_to(folder).as_posix() for path in paths]


def _is_whole(folder: Path, kind: Kind) -> bool:
    names = _file_names(folder)
    try:
        if kind.has_weights:
            weights_names(names, lambda name: (folder / name).read_bytes())
    except UserError:
        return False
    return all(
        any(fnmatch.fnmatch(name, mark) for name in names for mark in marks) for marks in kind.marks
    )


def _cached(repo: str, revision: str | None, kind: Kind) -> Path | None:
    """The folder of a downloaded revision (default: main, else a conversion), None without one."""
    for candidate in [revision] if revision else ["main", *_cached_refs(repo)]:
        try:
            folder = _snapshot(repo, candidate, kind, local_files_only=True)
        except LocalEntryNotFoundError:
            continue
        if _is_whole(folder, kind):
            return folder
    return None


def _cached_refs(repo: str) -> list[str]:
    if not Path(constants.HF_HUB_CACHE).is_dir():
        return []
    known = (
        entry for entry in scan_cache_dir(constants.HF_HUB_CACHE).repos if entry.repo_id == repo
    )
    return sorted(ref for entry in known for ref in entry.refs if ref.startswith("refs/pr/"))


def _download(repo: str, revision: str | None, kind: Kind) -> Path:
    folder = _snapshot(repo, revision, kind)
    if not kind.has_weights and not _is_whole(folder, kind):
        raise UserError(f"{repo} holds no model of hyper-meta, or not all files of one")
    if not kind.has_weights or _has_weights(_file_names(folder)):
        return folder
    if revision is not None:
        raise UserError(f"{repo} has no {WHOLE_FILE} in {revision}: choose another revision")
    return _snapshot(repo, _conversion(HfApi(), repo), kind)


def _has_weights(names: list[str]) -> bool:
    return WHOLE_FILE in names or INDEX_FILE in names


def _conversion(api: HfApi, repo: str) -> str:
    """The reference of the pull request in which the Hub offers a model's safetensors."""
    offers = api.get_repo_discussions(repo, author=CONVERTER, discussion_type="pull_request")
    for offer in offers:
        revision = f"refs/pr/{offer.num}"
        if _has_weights(api.list_repo_files(repo, revision=revision)):
            return revision
    raise UserError(
        f"{repo} has no {WHOLE_FILE}: convert it with transformers' save_pretrained and give the "
        "folder"
    )


def _snapshot(
    repo: str, revision: str | None, kind: Kind, *, local_files_only: bool = False
) -> Path:
    return Path(
        snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(kind.patterns),
            local_files_only=local_files_only,
        )
    )


def _check_hash(path: Path) -> None:
    """Raises UserError where the hash of a cached file is not its name in the cache.

    The name is the SHA-256 or, for small files, git's SHA-1.
    """
    blob, content = path.resolve(), path.read_bytes()
    found = {
        64: hashlib.sha256(content),
        40: hashlib.sha1(b"blob %d\0" % len(content) + content),
    }.get(len(blob.name))
    if found is not None and found.hexdigest() != blob.name:
        raise UserError(f"{path} is damaged, its hash is {found.hexdigest()}: delete {blob}")
