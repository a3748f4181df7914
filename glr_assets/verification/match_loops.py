"""Loops over the features of two images, each compiled by numba when it is first called: import this where they match.

`places` are [n, 4] float32: x, y, size, angle. A model is [2, 3] float64: x' = a x + b y + c, y' = d x + e y + f.
Nothing is reordered or fused, so every processor gives the same.
"""

from __future__ import annotations

import math

import numpy as np

from glr_assets.kernels import kernel

#: Cosines are compared to a millionth; below them is room for the number of a feature.
_COSINE_STEPS = np.float32(2**20)
#: A cosine of one would need one bit more than there is.
_MOST_STEPS = np.float32(2**20 - 1)
_NUMBER_BITS = 11
_NUMBERS = np.int32(2**_NUMBER_BITS - 1)
#: An affine model that squeezes more than this is no view of the same thing.
MOST_SCALE = 4.0
MOST_STRETCH = 4.0
#: Below so many matches a similarity is fitted: an affine model would follow the noise of three or four of them.
LEAST_FOR_AFFINE = 6
#: A model of a single match is rough: others may be so many times the residual off it.
WIDE = 2.0


_compiled = kernel()


@_compiled
def mutual(products, first_inverse, second_inverse, least):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """Features that are each other's nearest by cosine, of equals the last, and at least `least` alike.

    `products` [n, m] float32 are the dot products of the codes, the inverses [n], [m] float32 one over their lengths.
    Returns the numbers of both and their cosine. The best of a row and of a column are kept as one whole number each,
    cosine before feature, which processors compare many at a time.
    """
    n, m = products.shape
    of_column = np.full(m, -1, np.int32)
    of_row = np.empty(n, np.int32)
    for i in range(n):
        scale = first_inverse[i] * _COSINE_STEPS
        best = np.int32(-1)
        row = products[i]
        for j in range(m):
            steps = min(max(row[j], np.float32(0.0)) * scale * second_inverse[j], _MOST_STEPS)
            alike = np.int32(steps) << np.int32(_NUMBER_BITS)
            best = max(best, alike | np.int32(j))
            of_column[j] = max(of_column[j], alike | np.int32(i))
        of_row[i] = best
    first, second = np.empty(n, np.int64), np.empty(n, np.int64)
    cosine = np.empty(n, np.float32)
    found = 0
    for i in range(n):
        j = of_row[i] & _NUMBERS
        if of_row[i] < 0 or (of_column[j] & _NUMBERS) != i:
            continue
        value = np.float32(of_row[i] >> _NUMBER_BITS) / _COSINE_STEPS
        if value < least:
            continue
        first[found], second[found], cosine[found] = i, j, value
        found += 1
    return first[:found], second[:found], cosine[:found]


@_compiled
def _turned(angle):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """An angle's size, at most half a turn."""
    angle = abs(angle) % (2 * math.pi)
    return 2 * math.pi - angle if angle > math.pi else angle


@_compiled
def _agree(model, place, other, reach, size_and_turn, limits):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """Whether `model` takes `place` to `other` within `reach` pixels, and in size and angle where these are told."""
    dx = model[0, 0] * place[0] + model[0, 1] * place[1] + model[0, 2] - other[0]
    dy = model[1, 0] * place[0] + model[1, 1] * place[1] + model[1, 2] - other[1]
    if dx * dx + dy * dy > reach * reach:
        return False
    _, oriented, most_log, most_turn = limits
    if not oriented:
        return True
    if abs(math.log(other[2] / place[2]) - size_and_turn[0]) > most_log:
        return False
    return _turned(other[3] - place[3] - size_and_turn[1]) <= most_turn


@_compiled
def _size_and_turn(model):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """By what logarithm a model enlarges and by what angle it turns."""
    area = abs(model[0, 0] * model[1, 1] - model[0, 1] * model[1, 0])
    return 0.5 * math.log(area + 1e-12), math.atan2(model[1, 0] - model[0, 1], model[0, 0] + model[1, 1])


@_compiled
def _of_one(place, other):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """The similarity that takes one feature to another, by place, size and angle."""
    size, turn = other[2] / place[2], other[3] - place[3]
    a, b = size * math.cos(turn), size * math.sin(turn)
    model = np.empty((2, 3))
    model[0, 0], model[0, 1], model[0, 2] = a, -b, other[0] - (a * place[0] - b * place[1])
    model[1, 0], model[1, 1], model[1, 2] = b, a, other[1] - (b * place[0] + a * place[1])
    return model


@_compiled
def plausible(model):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """Whether a model does not mirror, nor enlarge or stretch by more than two views of one thing would."""
    a, b, d, e = model[0, 0], model[0, 1], model[1, 0], model[1, 1]
    det = a * e - b * d
    if det < 1 / MOST_SCALE**2 or det > MOST_SCALE**2:
        return False
    # Singular values: s1² + s2² = |A|², s1 s2 = det.
    norm = a * a + b * b + d * d + e * e
    root = math.sqrt(max(norm * norm - 4 * det * det, 0.0))
    return norm + root <= MOST_STRETCH**2 * (norm - root) + 1e-12


@_compiled
def fitted(places, others, first, second, used):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """The model of least squares through the matches marked `used`, and whether there is a plausible one.

    It is a similarity where the matches are few or lie along a line, which tell no affine model.
    """
    n = 0
    mx = my = ux = uy = 0.0
    for t in range(len(first)):
        if used[t]:
            n += 1
            mx += places[first[t], 0]
            my += places[first[t], 1]
            ux += others[second[t], 0]
            uy += others[second[t], 1]
    model = np.zeros((2, 3))
    if n < 2:
        return model, False
    mx, my, ux, uy = mx / n, my / n, ux / n, uy / n
    xx = xy = yy = ax = ay = bx = by = 0.0
    for t in range(len(first)):
        if used[t]:
            px, py = places[first[t], 0] - mx, places[first[t], 1] - my
            qx, qy = others[second[t], 0] - ux, others[second[t], 1] - uy
            xx += px * px
            xy += px * py
            yy += py * py
            ax += qx * px
            ay += qx * py
            bx += qy * px
            by += qy * py
    det = xx * yy - xy * xy
    if xx + yy < 1e-9:
        return model, False
    if n < LEAST_FOR_AFFINE or det < 1e-3 * (xx + yy) ** 2:
        a, b = (ax + by) / (xx + yy), (bx - ay) / (xx + yy)
        model[0, 0], model[0, 1], model[1, 0], model[1, 1] = a, -b, b, a
    else:
        model[0, 0], model[0, 1] = (ax * yy - ay * xy) / det, (ay * xx - ax * xy) / det
        model[1, 0], model[1, 1] = (bx * yy - by * xy) / det, (by * xx - bx * xy) / det
    model[0, 2] = ux - model[0, 0] * mx - model[0, 1] * my
    model[1, 2] = uy - model[1, 0] * mx - model[1, 1] * my
    return model, plausible(model)


@_compiled
def from_single(places, others, first, second, limits):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """The similarity of one match that most of all agree with, of equals the first, and how many do.

    Each match is tried (Philbin et al., Object retrieval with large vocabularies, CVPR 2007, 3.2), so nothing is left
    to chance. A single feature tells the model roughly: `WIDE` times the residual is allowed.
    """
    residual, _, most_log, most_turn = limits
    m = len(first)
    x, y, to_x, to_y = np.empty(m), np.empty(m), np.empty(m), np.empty(m)
    log_size, turn = np.empty(m), np.empty(m)
    for t in range(m):
        place, other = places[first[t]], others[second[t]]
        x[t], y[t], to_x[t], to_y[t] = place[0], place[1], other[0], other[1]
        log_size[t], turn[t] = math.log(other[2] / place[2]), other[3] - place[3]
    most, best = 0, np.zeros((2, 3))
    for h in range(m):
        if abs(log_size[h]) > math.log(MOST_SCALE):
            continue
        model = _of_one(places[first[h]], others[second[h]])
        a, b, c, d = model[0, 0], model[1, 0], model[0, 2], model[1, 2]
        reach = (WIDE * residual * max(1.0, math.exp(log_size[h]))) ** 2
        agreeing = 0
        for t in range(m):
            if m - t + agreeing <= most:
                break
            if abs(log_size[t] - log_size[h]) > most_log:
                continue
            dx, dy = a * x[t] - b * y[t] + c - to_x[t], b * x[t] + a * y[t] + d - to_y[t]
            if dx * dx + dy * dy <= reach and _turned(turn[t] - turn[h]) <= most_turn:
                agreeing += 1
        if agreeing > most:
            most, best = agreeing, model
    return most, best


@_compiled
def refined(places, others, first, second, model, limits, rounds):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """A model fitted `rounds` times to the matches that agree with it, at first within `WIDE` times the residual.

    Returns how many agree with the best one, and it.
    """
    used = np.zeros(len(first), np.bool_)
    most, best = 0, model
    for number in range(rounds + 1):
        size_and_turn = _size_and_turn(model)
        reach = limits[0]
        if number == 0:
            reach *= WIDE * max(1.0, math.exp(size_and_turn[0]))
        agreeing = 0
        for t in range(len(first)):
            used[t] = _agree(model, places[first[t]], others[second[t]], reach, size_and_turn, limits)
            agreeing += used[t]
        if number > 0 and agreeing > most:
            most, best = agreeing, model
        if number == rounds:
            break
        model, well = fitted(places, others, first, second, used)
        if not well:
            break
    return most, best


@_compiled
def guided(places, others, cosines, model, least, limits):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """Matches near where a model says: of those that agree with it and are `least` alike or more, mutually the nearest.

    Repeated windows, which are no mutual matches in the whole image, are found so. Of features at one place, which
    differ in angle or size alone, one counts.
    """
    n, m = cosines.shape
    size_and_turn, residual = _size_and_turn(model), limits[0]
    near, near_cosine = np.full(n, -1, np.int64), np.zeros(n, np.float32)
    back, back_cosine = np.full(m, -1, np.int64), np.zeros(m, np.float32)
    for i in range(n):
        x = model[0, 0] * places[i, 0] + model[0, 1] * places[i, 1] + model[0, 2]
        for j in range(m):
            if abs(x - others[j, 0]) > residual or cosines[i, j] < least:
                continue
            if not _agree(model, places[i], others[j], residual, size_and_turn, limits):
                continue
            if cosines[i, j] > near_cosine[i]:
                near[i], near_cosine[i] = j, cosines[i, j]
            if cosines[i, j] > back_cosine[j]:
                back[j], back_cosine[j] = i, cosines[i, j]
    first, second = np.empty(n, np.int64), np.empty(n, np.int64)
    found = 0
    for i in range(n):
        j = near[i]
        if j < 0 or back[j] != i or _repeated(places, first[:found], i) or _repeated(others, second[:found], j):
            continue
        first[found], second[found] = i, j
        found += 1
    return first[:found], second[:found]


@_compiled
def _repeated(places, chosen, number):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """Whether one of the chosen features lies where feature `number` does, within a pixel."""
    for other in chosen:
        if abs(places[other, 0] - places[number, 0]) < 1 and abs(places[other, 1] - places[number, 1]) < 1:
            return True
    return False


@_compiled
def likeness(products, first_inverse, second_inverse, least):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """How alike a few features of two images are: the squares of what mutual matches have above `least`, summed."""
    _, _, cosine = mutual(products, first_inverse, second_inverse, least)
    total = 0.0
    for value in cosine:
        total += (float(value) - float(least)) ** 2
    return total
