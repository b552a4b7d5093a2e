"""Which points do polygons cover, border and all? Numbers as 64-bit doubles and lengths as 32-bit integers on the standard
input, one byte a point on the standard output; the asker is shapely.rs."""

import sys

import numpy
import shapely

data = memoryview(sys.stdin.buffer.read())
place = 0


def number():
    global place
    place += 4
    return int.from_bytes(data[place - 4 : place], "little")


def points(count):
    global place
    place += 16 * count
    return numpy.frombuffer(data[place - 16 * count : place], dtype="<f8").reshape(-1, 2)


for _ in range(number()):
    rings = [points(number()) for _ in range(number())]
    polygon = shapely.Polygon(rings[0], rings[1:])
    assert polygon.is_valid, shapely.is_valid_reason(polygon)
    shapely.prepare(polygon)
    asked = points(number())
    covered = shapely.covers(polygon, shapely.points(asked))
    sys.stdout.buffer.write(covered.astype("u1").tobytes())
