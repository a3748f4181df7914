"""Loops over 64-bit hashes, each compiled by numba when it is first called: import this where hashes are compared.

Hashes stand class by class: `starts` [classes + 1] holds the first row of each class and the number of rows. The loops
over classes compare every two hashes of one, a billion a second: a class of ten thousand takes 0.05 s, and no memory
but their results. Those of the search (`meet_…`) serve `near_duplicates.near_others`. Integers alone decide, so every
processor gives the same.
"""

from __future__ import annotations

import numpy as np

from glr_assets.kernels import kernel

#: More than any distance of two hashes.
_FAR = 65

_compiled = kernel()


@_compiled
def _ones(bits):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """Bits that are set (Hacker's Delight, 5-1): LLVM makes the processor's own instruction of it."""
    bits = bits - ((bits >> np.uint64(1)) & np.uint64(0x5555555555555555))
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (bits * np.uint64(0x0101010101010101)) >> np.uint64(56)


@_compiled
def lead(hashes, starts, bits, given, room):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """Row by row: a row at most `bits` from an earlier leader of its class follows it, another becomes a leader.

    `given` rows lead whatever they are like; of the others at most `room` of a class do. Returns for each row itself
    where it leads, the nearest leader before it (the first of equals) where it follows one, -1 where there was no
    room for it; and the bits between the two.
    """
    n = len(hashes)
    leader = np.full(n, -1, np.int64)
    distance = np.zeros(n, np.uint8)
    rows = np.empty(n, np.int64)
    led = np.empty(n, np.uint64)  # the leaders' hashes, side by side
    for c in range(len(starts) - 1):
        leaders = 0
        taken = 0
        for row in range(starts[c], starts[c + 1]):
            own = hashes[row]
            if not given[row]:
                if taken >= room[c]:
                    continue
                # One number that orders by distance, then by place among the leaders.
                best = np.uint64(_FAR) << np.uint64(32)
                for k in range(leaders):
                    best = min(best, (_ones(own ^ led[k]) << np.uint64(32)) | np.uint64(k))
                found = best >> np.uint64(32)
                if np.int64(found) <= bits:  # none is, of -1 bits
                    leader[row] = rows[best & np.uint64(0xFFFFFFFF)]
                    distance[row] = found
                    continue
                taken += 1
            leader[row] = row
            led[leaders] = own
            rows[leaders] = row
            leaders += 1
    return leader, distance


@_compiled
def extremes(hashes, starts):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """The closest and the farthest pair of each class as [classes, 3]: both rows, the earlier first, and the bits.

    Of equal pairs it is the one whose rows come first; -1 of a class of one row.
    """
    classes = len(starts) - 1
    closest = np.full((classes, 3), -1, np.int64)
    farthest = np.full((classes, 3), -1, np.int64)
    for c in range(classes):
        least, most = np.uint64(_FAR), np.uint64(0)
        for row in range(starts[c], starts[c + 1] - 1):
            own = hashes[row]
            low, high = np.uint64(_FAR), np.uint64(0)
            for other in range(row + 1, starts[c + 1]):
                found = _ones(own ^ hashes[other])
                low, high = min(low, found), max(high, found)
            if low < least:
                least = low
                closest[c, 0], closest[c, 2] = row, low
            if high > most or farthest[c, 0] < 0:
                most = high
                farthest[c, 0], farthest[c, 2] = row, high
        for pair in (closest, farthest):
            row = pair[c, 0]
            if row >= 0:
                other = row + 1
                while _ones(hashes[row] ^ hashes[other]) != np.uint64(pair[c, 2]):
                    other += 1
                pair[c, 1] = other
    return closest, farthest


@_compiled
def _least(hashes, rows):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """The bits between the two closest of these rows."""
    least = np.uint64(_FAR)
    for k in range(len(rows)):
        for other in range(k):
            least = min(least, _ones(hashes[rows[k]] ^ hashes[rows[other]]))
    return least


@_compiled
def _greedy(hashes, start, end, keep):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """Gonzalez (1985): the farthest pair, then always the row whose nearest chosen row is farthest."""
    first, second, most = start, start + 1, np.uint64(0)
    for row in range(start, end - 1):
        own = hashes[row]
        high = np.uint64(0)
        for other in range(row + 1, end):
            high = max(high, _ones(own ^ hashes[other]))
        if high > most:
            most, first = high, row
    while second <= first or _ones(hashes[first] ^ hashes[second]) != most:
        second += 1
    chosen = np.empty(keep, np.int64)
    nearest = np.full(end - start, np.int64(_FAR), np.int64)
    following = first
    for k in range(keep):
        chosen[k] = following
        own = hashes[following]
        for row in range(start, end):
            nearest[row - start] = min(nearest[row - start], np.int64(_ones(own ^ hashes[row])))
        nearest[following - start] = -1
        for taken in range(k):
            nearest[chosen[taken] - start] = -1
        following = second
        if k:
            best = np.int64(-1)
            for row in range(start, end):
                if nearest[row - start] > best:
                    best, following = nearest[row - start], row
    return chosen


@_compiled
def _exchange(hashes, start, end, chosen):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """Replace one of the two closest chosen rows by a row that is farther from all others, as long as there is one.

    Each time fewer pairs are that close, so it ends.
    """
    keep = len(chosen)
    taken = np.zeros(end - start, np.bool_)
    for k in range(keep):
        taken[chosen[k] - start] = True
    while True:
        least = np.uint64(_FAR)
        first, second = -1, -1
        for k in range(keep):
            for other in range(k + 1, keep):
                found = _ones(hashes[chosen[k]] ^ hashes[chosen[other]])
                if found < least:
                    least, first, second = found, k, other
        best, at, by = least, -1, -1
        for k in (first, second):
            for row in range(start, end):
                if taken[row - start]:
                    continue
                own = hashes[row]
                nearest = np.uint64(_FAR)
                for other in range(keep):
                    if other != k:
                        nearest = min(nearest, _ones(own ^ hashes[chosen[other]]))
                if nearest > best:
                    best, at, by = nearest, k, row
        if at < 0:
            return
        taken[chosen[at] - start] = False
        taken[by - start] = True
        chosen[at] = by


@_compiled
def max_min(hashes, starts, draw, keep, chosen):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """Mark in `chosen` the rows that `diversity.most_diverse` names; `draw` are each class's in a random order."""
    for c in range(len(starts) - 1):
        start, end = starts[c], starts[c + 1]
        if end - start <= keep:
            chosen[start:end] = True
            continue
        best = _greedy(hashes, start, end, keep)
        if keep > 1:
            _exchange(hashes, start, end, best)
        drawn = draw[start : start + keep]
        if _least(hashes, drawn) > _least(hashes, best):
            best = drawn
        for k in range(keep):
            chosen[best[k]] = True


@_compiled
def _take_pairs(hashes, start, end, bits, left, chosen):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """Mark rows of pairs `bits` apart, from the last pair back, until `left` more are marked; gives how many lack."""
    for row in range(end - 1, start - 1, -1):
        own = hashes[row]
        for other in range(end - 1, row, -1):
            if left and _ones(own ^ hashes[other]) == np.uint64(bits):
                for taken in (row, other):
                    if left and not chosen[taken]:
                        chosen[taken] = True
                        left -= 1
    return left


@_compiled
def farthest_pairs(hashes, starts, keep, closest_first, chosen):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """Mark in `chosen` the rows of each class that `diversity.farthest_pairs` names."""
    closest, farthest = extremes(hashes, starts)
    for c in range(len(starts) - 1):
        start, end = starts[c], starts[c + 1]
        if end - start <= keep:
            chosen[start:end] = True
            continue
        left = keep
        if closest_first:
            for k in range(min(keep, 2)):
                chosen[closest[c, k]] = True
                left -= 1
        # The earlier system walks the list of pairs, sorted from the closest, backwards.
        bits = farthest[c, 2]
        while left:
            left = _take_pairs(hashes, start, end, bits, left, chosen)
            bits -= 1


@_compiled
def nearest_chosen(hashes, starts, chosen):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """Of each row the nearest chosen row of its class, the first of equals and itself of a chosen one, and the bits."""
    n = len(hashes)
    nearest = np.full(n, -1, np.int64)
    distance = np.zeros(n, np.uint8)
    rows = np.empty(n, np.int64)
    led = np.empty(n, np.uint64)
    for c in range(len(starts) - 1):
        count = 0
        for row in range(starts[c], starts[c + 1]):
            if chosen[row]:
                led[count] = hashes[row]
                rows[count] = row
                count += 1
        for row in range(starts[c], starts[c + 1]):
            if chosen[row]:
                nearest[row] = row
            elif count:
                own = hashes[row]
                best = np.uint64(_FAR) << np.uint64(32)
                for k in range(count):
                    best = min(best, (_ones(own ^ led[k]) << np.uint64(32)) | np.uint64(k))
                nearest[row] = rows[best & np.uint64(0xFFFFFFFF)]
                distance[row] = best >> np.uint64(32)
    return nearest, distance


@_compiled
def _enter(held, row, key, other):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """Count `other` among those near `row`, and hold it if it is one of the nearest, the first rows of equals."""
    rows, keys, sizes, counts = held
    counts[row] += 1
    at = sizes[row]
    if at == rows.shape[1]:
        at -= 1
        if key > keys[row, at] or (key == keys[row, at] and other > rows[row, at]):
            return
    else:
        sizes[row] += 1
    while at > 0 and (key < keys[row, at - 1] or (key == keys[row, at - 1] and other < rows[row, at - 1])):
        keys[row, at], rows[row, at] = keys[row, at - 1], rows[row, at - 1]
        at -= 1
    keys[row, at], rows[row, at] = key, other


@_compiled
def _meet(one, two, bits, images, held):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """Enter the images of two hashes, or of one, with each other where their groups differ."""
    firsts, members, groups, files = images
    for p in range(firsts[one], firsts[one + 1]):
        a = members[p]
        for q in range(p + 1 if one == two else firsts[two], firsts[two + 1]):
            b = members[q]
            if groups[a] != groups[b]:
                other_file = files[a] != files[b] or files[a] == 0
                key = np.uint8(2 * bits + other_file)
                _enter(held, a, key, b)
                _enter(held, b, key, a)


@_compiled
def meet_near(hashes, order, masks, table, bits, images, held):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """Enter the images of all pairs of distinct hashes that agree in `masks[table]` and in no mask before it.

    `order` are the rows of `hashes`, sorted by their bits of that mask.
    """
    mask = masks[table]
    n = len(order)
    start = 0
    while start < n:
        shared = hashes[order[start]] & mask
        end = start + 1
        while end < n and (hashes[order[end]] & mask) == shared:
            end += 1
        for i in range(start, end - 1):
            own = hashes[order[i]]
            for j in range(i + 1, end):
                differing = own ^ hashes[order[j]]
                found = _ones(differing)
                if found > np.uint64(bits):
                    continue
                earlier = False
                for before in range(table):
                    if not differing & masks[before]:
                        earlier = True
                        break
                if not earlier:
                    _meet(order[i], order[j], found, images, held)
        start = end


@_compiled
def meet_twins(images, held):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """Enter the images of each hash with each other."""
    firsts = images[0]
    for one in range(len(firsts) - 1):
        if firsts[one + 1] - firsts[one] > 1:
            _meet(one, one, np.uint64(0), images, held)
