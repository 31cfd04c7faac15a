"""Who is who: track ids for labels that have none.

A wrong link moves labels from one animal to another without a trace, so a link is made only where
nothing else explains the labels nearly as well.

P people, A and B people of two neighbouring labelled frames, J joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from posewarper.data.people import person_sizes
from posewarper.data.tables import Bools, Floats, Ints, PoseDataset

#: The farthest that somebody moves from one labelled frame to the next, in sizes of the person.
GATE = 1.0
#: The next best explanation has to cost this many times as much, and this much more, in sizes.
RATIO = 2.0
_MARGIN = 0.1
#: What it costs to have no partner: two without one explain a link of ``GATE`` just too well.
_ALONE = RATIO * GATE / 2
#: Where more of the people than this are unclear, others look clear by chance.
_DOUBTS = 1 / 2
_FORBIDDEN = 1e6


@dataclass(frozen=True, eq=False)
class Links:
    """Track ids, and what was done to find them.

    Attributes:
        track_id: [P], those that were given and new ones; -1 for people who stay without.
        notes: what was linked and what was not, a sentence or two per video.
    """

    track_id: Ints
    notes: tuple[str, ...]


def link_tracks(dataset: PoseDataset) -> PoseDataset:
    """The data set with the track ids of ``find_links``."""
    people = replace(dataset.people, track_id=find_links(dataset).track_id)
    return replace(dataset, people=people)


def find_links(dataset: PoseDataset) -> Links:
    """Track ids for people who have none. Ids that are given stay.

    If a video has one person per frame throughout, and not two different ids, all are one track.
    Otherwise people of neighbouring labelled frames are linked: the cost of a link is the mean
    distance of the joints that both have, divided by the size (``link_costs``); the assignment of
    the least total cost is taken, in which a person may also appear or disappear (Hungarian
    method). Of it only those links are kept without which the people concerned would cost at least
    twice as much (``RATIO``), where to stay alone costs as much as a link of 1: so nobody is linked
    who moved farther than ``GATE``; and none of a video in
    which this leaves more than half of the people open, time and again. A frame in which
    somebody is missing ends the track.

    Chains of links become tracks with the id that one of them has, or a new one. Somebody without
    links gets a new id if there was nobody to link to, and stays without (-1) if a link was
    refused; so ``inference.tracks`` carries the label halfway and no farther.

    People without joints and crowds are not linked.
    """
    people, frames = dataset.people, dataset.frames
    track_id = np.array(people.track_id)
    notes: list[str] = []
    for position, video in enumerate(dataset.videos):
        rows = np.flatnonzero((frames.video[people.frame] == position) & ~people.crowd)
        if not (track_id[rows] < 0).any():
            continue
        found, note = _link_video(dataset, position, rows)
        track_id[rows] = found
        notes.append(f"{video.name}: {note}")
    return Links(track_id, tuple(notes))


def link_costs(first: Floats, second: Floats, least_size: float = 0.0) -> Floats:
    """Cost [A, B] of a link between people [A, J, 3] and people [B, J, 3] of another frame.

    The mean distance of the joints that both have, divided by the larger size of the two
    (``people.person_sizes``), or by ``least_size`` pixels if that is more, so that
    people of whom little is labelled are not small; infinite where they have no joint in common.
    """
    common = (first[:, None, :, 2] > 0) & (second[None, :, :, 2] > 0)  # [A, B, J]
    distance = np.linalg.norm(first[:, None, :, :2] - second[None, :, :, :2], axis=3)
    count = common.sum(2)
    mean = (distance * common).sum(2) / np.maximum(count, 1)
    size = np.maximum(_sizes(first)[:, None], _sizes(second)[None])
    size = np.maximum(size, max(least_size, 1.0))
    return np.where(count > 0, mean / size, np.inf)


def _sizes(keypoints: Floats) -> Floats:
    return person_sizes(keypoints[..., :2], keypoints[..., 2] > 0)


def _link_video(dataset: PoseDataset, position: int, rows: Ints) -> tuple[Ints, str]:
    """Track ids of the people ``rows`` of a video, and what to say about them."""
    people, frames = dataset.people, dataset.frames
    given = people.track_id[rows]
    known = sorted(set(given[given >= 0].tolist()))
    of_frame = people.frame[rows]
    if len(np.unique(of_frame)) == len(rows) and len(known) <= 1:
        track = known[0] if known else 0
        return np.full(len(rows), track), f"one in every frame: all labels are track {track}"

    keypoints = people.keypoints[rows]
    sizes = _sizes(keypoints)
    usual = float(np.median(sizes[sizes > 0])) if (sizes > 0).any() else 0.0
    inhabited = np.isin(np.arange(len(frames)), of_frame)
    labelled = np.flatnonzero((frames.video == position) & (frames.labelled | inhabited))
    in_time = labelled[np.argsort(frames.number[labelled], kind="stable")]
    groups = [np.flatnonzero(of_frame == frame) for frame in in_time.tolist()]
    after = np.full(len(rows), -1)  # for each person the one who is the same in the next frame
    refused = np.zeros(len(rows), np.bool_)
    doubts: list[str] = []
    unclear = compared = 0
    for first, second, frame, following in zip(
        groups, groups[1:], in_time[:-1], in_time[1:], strict=False
    ):
        costs = link_costs(keypoints[first], keypoints[second], usual / 2)
        same, unsure = _match(costs, given[first], given[second])
        for a, b in same:
            after[first[a]] = second[b]
        unclear += len(unsure[0]) + len(unsure[1])
        compared += len(first) + len(second)
        if len(unsure[0]) or len(unsure[1]):
            refused[first[unsure[0]]] = refused[second[unsure[1]]] = True
            doubts.append(f"{frames.number[frame]}-{frames.number[following]}")

    if len(doubts) > 1 and unclear > _DOUBTS * compared:
        return given, (
            f"{(given < 0).sum()} labels stay without a track: from one labelled frame to the next "
            f"it is not clear who is who {len(doubts)} times of {len(groups) - 1}. They are too "
            "far apart to link; name the tracks in the labels"
        )
    track_id = _name_chains(_chains(after), given, of_frame, refused)
    new = len(set(track_id[track_id >= 0].tolist()) - set(known))
    missing = given < 0
    left = int((track_id < 0).sum())
    note = f"{missing.sum() - left} labels without a track were linked: {new} new tracks"
    if left:
        note += f"; {left} labels stay without"
    if doubts:
        listed = ", ".join(doubts[:4]) + (", ..." if len(doubts) > 4 else "")
        note += (
            f"; from one labelled frame to the next it is not clear who is who {len(doubts)} times "
            f"(frames {listed})"
        )
    return track_id, note


def _match(costs: Floats, first: Ints, second: Ints) -> tuple[list[tuple[int, int]], list[Ints]]:
    """Who is the same in two frames.

    Args:
        costs: [A, B], not finite for people who cannot be compared.
        first: [A] track ids that are given, -1 for none.
        second: [B] the same.

    Returns:
        Pairs of positions; and of each frame the positions of those for whom a link was refused.
    """
    pairs = [(a, int(b)) for a, track in enumerate(first) if track >= 0 for b in _of(track, second)]
    # Who is in both frames under an id is settled. An id that is in one of them only may be that of
    # somebody without an id, never that of another id.
    free_a = np.setdiff1d(np.arange(len(first)), [a for a, _ in pairs])
    free_b = np.setdiff1d(np.arange(len(second)), [b for _, b in pairs])
    open_costs = costs[np.ix_(free_a, free_b)]
    both_named = (first[free_a, None] >= 0) & (second[free_b] >= 0)
    possible = np.isfinite(open_costs) & ~both_named
    open_costs = np.where(possible, open_costs, np.inf)
    best = _assign(open_costs)
    refused_a, refused_b = set(), set()
    for a, b in best:
        if _is_clear(open_costs, best, a, b):
            pairs.append((int(free_a[a]), int(free_b[b])))
        else:
            refused_a.add(int(free_a[a]))
            refused_b.add(int(free_b[b]))
    # Somebody went and somebody else came, far apart: or it is the same one, who moved far.
    alone_a = [a for a in range(len(free_a)) if a not in {a for a, _ in best}]
    alone_b = [b for b in range(len(free_b)) if b not in {b for _, b in best}]
    for a in alone_a:
        for b in alone_b:
            if possible[a, b]:
                refused_a.add(int(free_a[a]))
                refused_b.add(int(free_b[b]))
    refused = [np.array(sorted(found), np.int64) for found in (refused_a, refused_b)]
    return pairs, refused


def _of(track: int, tracks: Ints) -> Ints:
    return np.flatnonzero(tracks == track)


def _assign(costs: Floats) -> list[tuple[int, int]]:
    """The pairs of the least total cost, where everybody may also stay alone for ``_ALONE``."""
    rows, columns = costs.shape
    table = np.full((rows + columns, rows + columns), _FORBIDDEN)
    table[:rows, :columns] = np.where(costs <= 2 * _ALONE, costs, _FORBIDDEN)
    table[np.arange(rows), columns + np.arange(rows)] = _ALONE
    table[rows + np.arange(columns), np.arange(columns)] = _ALONE
    table[rows:, columns:] = 0
    chosen = zip(*linear_sum_assignment(table), strict=True)
    return [(int(a), int(b)) for a, b in chosen if a < rows and b < columns]


def _is_clear(costs: Floats, best: Sequence[tuple[int, int]], a: int, b: int) -> bool:
    """Whether the best assignment without the link of ``a`` and ``b`` is clearly worse.

    Compared are the costs of the links and lonely people in which the two differ.
    """
    without = costs.copy()
    without[a, b] = np.inf
    other = _assign(without)
    changed = set(best) ^ set(other)
    rows, columns = {pair[0] for pair in changed}, {pair[1] for pair in changed}

    def total(pairs: Sequence[tuple[int, int]]) -> float:
        within = [pair for pair in pairs if pair in changed]
        alone = len(rows) + len(columns) - 2 * len(within)
        return float(sum(costs[pair] for pair in within)) + _ALONE * alone

    ours, theirs = total(best), total(other)
    return theirs >= ours + _MARGIN and theirs >= ours * RATIO


def _chains(after: Ints) -> list[list[int]]:
    """Runs of people of whom each is the next one's predecessor."""
    followers = set(after[after >= 0].tolist())
    chains = []
    for start in range(len(after)):
        if start in followers:
            continue
        chain = [start]
        while after[chain[-1]] >= 0:
            chain.append(int(after[chain[-1]]))
        chains.append(chain)
    return chains


def _name_chains(
    chains: Sequence[Sequence[int]], given: Ints, of_frame: Ints, refused: Bools
) -> Ints:
    """Track ids of the people: given ones, those of somebody in the chain, or new ones."""
    track_id = np.array(given)
    taken = {(int(of_frame[p]), int(given[p])) for p in np.flatnonzero(given >= 0)}
    used = set(given[given >= 0].tolist())
    next_id = iter(i for i in range(len(given) + len(used) + 1) if i not in used)
    for chain in chains:
        nameless = [p for p in chain if given[p] < 0]
        names = {int(given[p]) for p in chain if given[p] >= 0}
        if not nameless:
            continue
        if len(names) == 1:
            name = names.pop()
            places = {(int(of_frame[p]), name) for p in nameless}
            if not places & taken:
                track_id[nameless] = name
                taken |= places
                continue
        # Between two ids, or where the id is somebody else's already: the runs without an id stay
        # together, under an id of their own.
        for run in _runs(chain, given):
            if len(run) > 1 or not (refused[run].any() or names):
                track_id[run] = next(next_id)
    return track_id


def _runs(chain: Sequence[int], given: Ints) -> list[list[int]]:
    """The parts of a chain without ids."""
    runs: list[list[int]] = [[]]
    for person in chain:
        if given[person] < 0:
            runs[-1].append(person)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]
