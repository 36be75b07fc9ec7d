"""The objects of the procedural data set: six kinds of toys, each with a hue of its own.

Every toy faces +x (a camera at yaw 0 sees its front), stands upright along +y and fits in the ball
`tracing.BALL`. Lengths in world units before the fit. Parts are large and their colours few: what
makes a kind is its silhouette, what makes an object is its proportions and its paint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from epigraf.data import palettes
from epigraf.data.palettes import Paint, Palette, drawn, mixed, toned
from epigraf.data.solids import Above, Blend, Box, Capsule, Disc, Ellipsoid, Frustum, Torus
from epigraf.data.textures import Axis, Colour, band, dots, solid
from epigraf.data.tracing import Part, Toy, fitted

GLASS = Paint(0.57, 0.35, 0.42)


@dataclass(frozen=True)
class _Dice:
    """Random proportions and colours of one object."""

    generator: np.random.Generator

    def between(self, low: float, high: float) -> float:
        return float(self.generator.uniform(low, high))

    def whole(self, low: int, high: int) -> int:
        """low..high, both included."""
        return int(self.generator.integers(low, high + 1))

    def chance(self, share: float) -> bool:
        return self.between(0, 1) < share

    def of(self, palette: Palette) -> Colour:
        return drawn(palette, self.generator)

    def shade(self, paint: Paint) -> Colour:
        return mixed(paint, self.generator)


def _ball(x: float, y: float, z: float, radius: float) -> Ellipsoid:
    return Ellipsoid((x, y, z), (radius, radius, radius))


def mushroom(dice: _Dice) -> list[Part]:
    """A spotted cap on a thick stem."""
    cap, stem = dice.of(palettes.CAPS), dice.shade(palettes.CREAM)
    width, height = dice.between(0.12, 0.19), dice.between(0.09, 0.17)
    brim, thick = dice.between(-0.02, 0.05), dice.between(0.05, 0.08)
    spots = dots(cap, dice.shade(palettes.CREAM), (0, brim, 0), dice.whole(10, 14), 0.36)
    return [
        Part(Frustum(-0.2, brim + 0.02, thick * 1.4, thick * 0.9, rounding=0.02), solid(stem)),
        Part(Above(Ellipsoid((0, brim, 0), (width, height, width)), brim - 0.012), spots),
        Part(
            Frustum(brim - 0.022, brim - 0.008, width * 0.8, width * 0.93), solid(toned(stem, 0.75))
        ),
    ]


def duck(dice: _Dice) -> list[Part]:
    """A duck: body with a tail, head, beak, wings."""
    body = dice.of(palettes.FEATHERS)
    wing = toned(body, dice.between(0.65, 0.8))
    long, fat, tall = (
        dice.between(0.13, 0.165),
        dice.between(0.095, 0.125),
        dice.between(0.075, 0.1),
    )
    head, neck = dice.between(0.068, 0.092), dice.between(0.045, 0.08)
    tail = dice.between(0.01, 0.06)
    top = -0.06 + tall + dice.between(0.4, 0.85) * head
    hull = Blend(
        [
            Ellipsoid((-0.01, -0.06, 0), (long, tall, fat)),
            Capsule((-long * 0.75, -0.04, 0), (-long - 0.03, tail, 0), 0.05, 0.02),
            Capsule((neck * 0.9, -0.03, 0), (neck, top, 0), head * 0.85, head * 0.85),
            _ball(neck, top, 0, head),
        ],
        0.04,
    )
    beak = Ellipsoid((neck + head + 0.014, top - 0.014, 0), (0.048, 0.02, 0.042))
    eyes = [(neck + head * 0.72, top + head * 0.38, side * head * 0.62) for side in (-1, 1)]
    return [
        Part(hull, solid(body)),
        Part(beak, solid(dice.shade(palettes.ORANGE))),
        *(
            Part(Ellipsoid((-0.035, -0.05, side * fat * 0.9), (0.085, 0.05, 0.032)), solid(wing))
            for side in (-1, 1)
        ),
        *(Part(_ball(*eye, 0.019), solid(dice.shade(palettes.DARK))) for eye in eyes),
    ]


def rocket(dice: _Dice) -> list[Part]:
    """A belted hull with a nose cone, four fins, a lit window in front and a flame below."""
    hull, trim = dice.of(palettes.HULLS), dice.of(palettes.TRIMS)
    radius, nose = dice.between(0.07, 0.105), dice.between(0.07, 0.13)
    fin, high = dice.between(0.06, 0.085), dice.between(0.045, 0.07)
    tip = dice.between(0.15, 0.2)
    window_y = dice.between(-0.005, 0.025)
    light = dice.shade(palettes.CREAM)
    belt = band(hull, trim, Axis.Y, -0.09, dice.between(-0.06, -0.02))
    reach = radius + fin * 0.3
    fins = [(reach, 0, fin * 0.75, 0.02), (-reach, 0, fin * 0.75, 0.02)]
    fins += [(0, reach, 0.02, fin * 0.75), (0, -reach, 0.02, fin * 0.75)]
    flame = Capsule((0, -0.15, 0), (0, -0.2, 0), radius * 0.6, 0.02)
    return [
        Part(Frustum(-0.14, tip - nose, radius * 0.86, radius, rounding=0.01), belt),
        Part(Capsule((0, tip - nose, 0), (0, tip - 0.02, 0), radius, 0.02), solid(trim)),
        *(Part(Box((x, -0.12, z), (dx, high, dz), 0.012), solid(trim)) for x, z, dx, dz in fins),
        Part(Disc((radius * 0.95, window_y, 0), 0.06, 0.014, along_x=True), solid(trim)),
        Part(Disc((radius, window_y, 0), 0.04, 0.014, along_x=True), solid(light)),
        Part(flame, solid(dice.shade(palettes.ORANGE))),
    ]


def car(dice: _Dice) -> list[Part]:
    """A car with a cabin, four wheels, yellow lights in front and red ones behind."""
    paint = dice.of(palettes.CARS)
    long, wide = dice.between(0.14, 0.18), dice.between(0.08, 0.1)
    body, cabin = dice.between(0.04, 0.055), dice.between(0.035, 0.065)
    back, half = dice.between(-0.06, 0.01), dice.between(0.06, 0.1)
    wheel = dice.between(0.046, 0.062)
    floor = -0.05
    roof = floor + body + 2 * cabin - 0.01
    glass = Box((back, floor + body + cabin * 0.8, 0), (half, cabin * 0.8, wide * 0.86), 0.02)
    parts = [
        Part(Box((0, floor, 0), (long, body, wide), 0.03), solid(paint)),
        Part(glass, solid(dice.shade(GLASS))),
        Part(Box((back, roof - 0.018, 0), (half, 0.022, wide * 0.9), 0.014), solid(paint)),
    ]
    tyre, hub = solid(dice.shade(palettes.DARK)), solid(dice.shade(palettes.GREY))
    for x in (-0.58 * long, 0.6 * long):
        for z in (-wide, wide):
            centre = (x, floor - body, z)
            parts.append(Part(Disc(centre, wheel, 0.024), tyre))
            parts.append(Part(Disc(centre, wheel * 0.5, 0.028), hub))
    for z in (-0.6 * wide, 0.6 * wide):
        front = Ellipsoid((long, floor + 0.01, z), (0.016, 0.024, 0.024))
        rear = Ellipsoid((-long, floor + 0.01, z), (0.016, 0.02, 0.026))
        parts.append(Part(front, solid(dice.shade(palettes.YELLOW))))
        parts.append(Part(rear, solid(dice.shade(palettes.RED))))
    return parts


def bear(dice: _Dice) -> list[Part]:
    """A sitting teddy bear: belly and muzzle lighter than the fur, a scarf, ears, arms, legs."""
    fur = dice.of(palettes.FURS)
    light, scarf = toned(fur, dice.between(1.2, 1.35)), dice.shade(palettes.RED)
    dark = solid(dice.shade(palettes.DARK))
    fat, tall = dice.between(0.075, 0.1), dice.between(0.085, 0.105)
    head, ear = dice.between(0.075, 0.095), dice.between(0.028, 0.042)
    neck = -0.07 + tall
    face = neck + head * 0.75
    lift = dice.between(-0.06, 0.03)
    parts = [
        Part(Ellipsoid((0, -0.07, 0), (fat, tall, fat)), solid(fur)),
        Part(
            Ellipsoid((fat * 0.35, -0.075, 0), (fat * 0.75, tall * 0.75, fat * 0.7)), solid(light)
        ),
        Part(Ellipsoid((0, face, 0), (head * 0.92, head * 0.9, head)), solid(fur)),
        Part(Ellipsoid((head * 0.8, face - head * 0.25, 0), (0.036, 0.03, 0.04)), solid(light)),
        Part(_ball(head * 0.8 + 0.032, face - head * 0.14, 0, 0.014), dark),
        Part(Torus((0, neck - 0.012, 0), head * 0.62, 0.022, flat=True), solid(scarf)),
    ]
    for side in (-1, 1):
        arm = (0.06, lift, side * (fat + 0.025))
        parts += [
            Part(_ball(0, face + head * 0.75, side * head * 0.72, ear), solid(fur)),
            Part(_ball(head * 0.8, face + head * 0.22, side * head * 0.42, 0.015), dark),
            Part(Capsule((0, -0.025, side * fat * 0.75), arm, 0.03, 0.032), solid(fur)),
            Part(
                Capsule(
                    (0.02, -0.14, side * fat * 0.6),
                    (0.115, -0.145, side * fat * 0.85),
                    0.038,
                    0.036,
                ),
                solid(fur),
            ),
        ]
    return parts


def teapot(dice: _Dice) -> list[Part]:
    """A pot with a pale belt, a spout in front, a handle behind, a lid with a knob."""
    glaze = dice.of(palettes.GLAZES)
    trim = toned(glaze, dice.between(0.5, 0.65))
    pale = dice.shade(palettes.CREAM)
    fat, tall = dice.between(0.095, 0.13), dice.between(0.075, 0.12)
    coat = band(glaze, pale, Axis.Y, -0.03 - tall * 0.4, -0.03 + tall * 0.4)
    rise = dice.between(0.02, 0.06)
    spout = Capsule((fat * 0.7, -0.06, 0), (fat + 0.055, rise, 0), 0.036, 0.022)
    lid = -0.03 + tall * 0.86
    return [
        Part(Ellipsoid((0, -0.03, 0), (fat, tall, fat)), coat),
        Part(spout, solid(glaze)),
        Part(Torus((-fat - 0.012, -0.015, 0), dice.between(0.045, 0.058), 0.019), solid(trim)),
        Part(Frustum(-0.03 - tall - 0.012, -0.03 - tall + 0.02, 0.068, 0.062), solid(trim)),
        Part(Frustum(lid, lid + 0.024, fat * 0.58, fat * 0.4, rounding=0.008), solid(trim)),
        Part(_ball(0, lid + 0.042, 0, 0.025), solid(trim)),
    ]


TOYS: dict[str, Callable[[_Dice], list[Part]]] = {
    "mushroom": mushroom,
    "duck": duck,
    "rocket": rocket,
    "car": car,
    "bear": bear,
    "teapot": teapot,
}


def make_toy(kind: str, seed: int) -> Toy:
    """One object, fitted into the ball.

    Args:
        kind: a key of `TOYS`.
        seed: proportions, colours and patterns; the same seed gives the same object.
    """
    return fitted(TOYS[kind](_Dice(np.random.default_rng(seed))))
