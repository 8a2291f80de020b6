"""What a file with published names says of itself: the form of the tables in the `*_names.py` files, one per network.

How such a table is applied is in `convert.py`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Names = str | tuple[str, ...]  # several: theirs, concatenated along the first axis, are ours
Config = Mapping[str, Any]  # a "model" section with every key
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Published:
    """The published state dict of a network, and ours.

    kind: of the registry. known_by: an entry that no other network's file has. config: the "model" section that shapes of published
    entries tell; `UserError` where they are none of this network. as_published: the section of the published network that comes nearest
    to one of ours. table: our module (or tensor) -> theirs; what follows the name is the same on both sides, and the longest name that
    fits counts. unread: name and shape of what it holds and never reads, or cancels at once (a bias before an instance norm or a
    softmax): not in ours. second_name: a part of a name, and what stands for it in the other name of the same tensor. formulas: entries
    that are no weights. prefix: of every name in the released files.
    """

    kind: str
    known_by: str
    config: Callable[[Shapes], dict[str, Any]]
    as_published: Callable[[Config], dict[str, Any]]
    table: Callable[[Config], dict[str, Names]]
    unread: Callable[[Config], dict[str, tuple[int, ...]]]
    second_name: tuple[str, str]
    formulas: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)
    prefix: str = ""

    def alias(self, name: str) -> str | None:
        """The other name of the same tensor, where there is one; a published state dict holds both."""
        part, other = self.second_name
        return name.replace(part, other) if part in name else None


def residual_block(ours: str, theirs: str) -> Iterator[tuple[str, Names]]:
    """RAFT's, whose children are called alike in all published networks that have it."""
    for n in (1, 2):
        yield f"{ours}.conv{n}", f"{theirs}.conv{n}"
        yield f"{ours}.norm{n}", f"{theirs}.norm{n}"
    yield f"{ours}.shortcut.0", f"{theirs}.downsample.0"
    yield f"{ours}.shortcut.1", f"{theirs}.norm3"
