"""Where tasks and images come from, whatever the data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from hyper_meta.data.tasks import Task


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set that is there.

    name: of its feature stores; tasks: by split, "train", "test" and perhaps "validation";
    fingerprint: hash of tasks and images; num_images: of all; read_images: start -> (image id,
    encoded image), from the start-th on, in an order that stays; image_hashes: {image id: hash of
    the file} in the same order, empty where images change with the version of the data set alone;
    read_named: image ids -> (image id, encoded image), where there are hashes.
    """

    name: str
    tasks: dict[str, list[Task]]
    fingerprint: str
    num_images: int
    read_images: Callable[[int], Iterator[tuple[str, bytes]]]
    image_hashes: dict[str, str] = dataclasses.field(default_factory=dict)
    read_named: Callable[[Sequence[str]], Iterator[tuple[str, bytes]]] = lambda names: iter(())
