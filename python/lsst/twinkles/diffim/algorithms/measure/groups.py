"""Groups of positions that lie close together."""

from __future__ import annotations

__all__ = ("Groups", "link_groups")

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

_SHORTEN = 0.8


@dataclass(frozen=True)
class Groups:
    """Members of groups.

    Attributes
    ----------
    members : `numpy.ndarray`, ``(N,)``, int64
        Indices of the positions, group by group.
    starts : `numpy.ndarray`, ``(G + 1,)``, int64
        Where in ``members`` each group starts, and their number.
    number : `numpy.ndarray`, ``(N,)``, int64
        Group of each position.
    """

    members: np.ndarray
    starts: np.ndarray
    number: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Positions in each group, ``(G,)``."""
        return np.diff(self.starts)

    def take(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``members`` and ``starts`` of some groups."""
        sizes = self.sizes[which]
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        parts = [self.members[self.starts[g] : self.starts[g + 1]] for g in which]
        return (np.concatenate(parts) if parts else np.zeros(0, np.int64)), starts


def link_groups(x: np.ndarray, y: np.ndarray, *, length: float, most: int) -> Groups:
    """Join positions that are linked by steps no longer than a length.

    Parameters
    ----------
    x, y : `numpy.ndarray`, ``(N,)``
        Positions in pixels.
    length : `float`
        Longest step in pixels.
    most : `int`
        Most members of a group; larger ones are linked anew by ever shorter steps.

    Returns
    -------
    groups : `Groups`
        Every position is in one group.
    """
    number = np.zeros(len(x), dtype=np.int64)
    pending, total = ([np.arange(len(x))] if len(x) else []), 0
    while pending:
        again: list[np.ndarray] = []
        for index in pending:
            count, labels = _components(x[index], y[index], length)
            sizes = np.bincount(labels, minlength=count)
            fine = (sizes <= most)[labels]
            order = np.cumsum(sizes <= most) - 1
            number[index[fine]] = total + order[labels[fine]]
            total += int((sizes <= most).sum())
            again.extend(index[labels == g] for g in np.flatnonzero(sizes > most))
        pending, length = again, length * _SHORTEN
        if length < 1e-3:
            for index in pending:  # positions on top of each other
                number[index] = total + np.arange(len(index)) // most
                total = int(number[index].max()) + 1
            break
    members = np.argsort(number, kind="stable")
    starts = np.searchsorted(number[members], np.arange(total + 1)).astype(np.int64)
    return Groups(members=members.astype(np.int64), starts=starts, number=number)


def _components(x: np.ndarray, y: np.ndarray, length: float) -> tuple[int, np.ndarray]:
    pairs = cKDTree(np.column_stack([x, y])).query_pairs(length, output_type="ndarray")
    graph = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(x), len(x)))
    return connected_components(graph, directed=False)
