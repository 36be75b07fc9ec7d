"""The objects of the procedural data set: six kinds of toys, each different from all sides.

Every toy faces +x (a camera at yaw 0 sees its front), stands upright along +y and fits in the ball
`tracing.BALL`. Lengths in world units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from epigraf.data.solids import Above, Blend, Box, Capsule, Disc, Ellipsoid, Frustum, Torus
from epigraf.data.textures import (
    Axis,
    Colour,
    Texture,
    checker,
    dots,
    hsv,
    mottled,
    solid,
    stripes,
    wedges,
)
from epigraf.data.tracing import Part, Toy, fitted

CREAM = (0.93, 0.84, 0.66)
BLACK = (0.07, 0.07, 0.09)
BROWN = (0.36, 0.22, 0.12)
GREY = (0.55, 0.57, 0.6)
ORANGE = (0.98, 0.55, 0.1)
RED = (0.88, 0.12, 0.1)
YELLOW = (1.0, 0.85, 0.15)


@dataclass(frozen=True)
class _Dice:
    """Random proportions and colours of one object."""

    generator: np.random.Generator

    def between(self, low: float, high: float) -> float:
        return float(self.generator.uniform(low, high))

    def whole(self, low: int, high: int) -> int:
        """low..high, both included."""
        return int(self.generator.integers(low, high + 1))

    def bold(self, hue: float | None = None) -> tuple[Colour, Colour]:
        """A saturated colour and one that stands out from it."""
        hue = self.between(0, 1) if hue is None else hue
        other = hue + self.between(0.35, 0.65)
        first = hsv(hue, self.between(0.75, 0.95), self.between(0.75, 0.95))
        return first, hsv(other, self.between(0.55, 0.9), self.between(0.85, 1.0))

    def pattern(self, a: Colour, b: Colour) -> Texture:
        """One of the patterns for round bodies."""
        makers: list[Callable[[], Texture]] = [
            lambda: stripes(a, b, Axis.Y, self.between(0.07, 0.12), self.between(0, 1)),
            lambda: checker(a, b, self.between(0.09, 0.13), self.whole(3, 4)),
            lambda: wedges(a, b, self.whole(4, 6)),
            lambda: mottled(a, b, self.between(0.05, 0.08), self.generator),
        ]
        return makers[self.whole(0, len(makers) - 1)]()


def _eyes(x: float, y: float, spread: float, size: float) -> list[Part]:
    """Two black eyes with bright rims, looking along +x."""
    parts: list[Part] = []
    for z in (-spread, spread):
        parts.append(Part(Ellipsoid((x, y, z), (size, size, size)), solid(CREAM)))
        pupil = Ellipsoid((x + 0.55 * size, y, z), (size * 0.62, size * 0.62, size * 0.62))
        parts.append(Part(pupil, solid(BLACK)))
    return parts


def mushroom(dice: _Dice) -> list[Part]:
    """A spotted cap on a stem with a face, in a pot."""
    cap_colour, _ = dice.bold(dice.between(-0.08, 0.1) if dice.whole(0, 1) else None)
    pot_a, pot_b = dice.bold()
    width, height = dice.between(0.13, 0.18), dice.between(0.09, 0.14)
    brim, stem = dice.between(0.035, 0.07), dice.between(0.055, 0.075)
    pot = dice.between(0.09, 0.115)
    cap = Above(Ellipsoid((0, brim, 0), (width, height, width)), brim - 0.012)
    spots = dots(cap_colour, hsv(0.12, 0.12, 0.98), (0, brim, 0), dice.whole(14, 26), 0.3)
    return [
        Part(Frustum(-0.2, -0.085, pot * 0.72, pot, rounding=0.008), dice.pattern(pot_a, pot_b)),
        Part(Frustum(-0.105, -0.07, pot * 1.12, pot * 1.12, rounding=0.01), solid(pot_a)),
        Part(Frustum(-0.08, -0.063, pot * 0.97, pot * 0.97), solid(BROWN)),
        Part(Frustum(-0.08, brim + 0.02, stem * 1.15, stem * 0.85), solid(CREAM)),
        Part(cap, spots),
        Part(Frustum(brim - 0.022, brim - 0.008, width * 0.8, width * 0.93), solid(BROWN)),
        *_eyes(stem * 0.92, dice.between(-0.02, -0.005), 0.034, 0.02),
    ]


def duck(dice: _Dice) -> list[Part]:
    """A rubber duck: body with a tail, head, beak, wings."""
    body, wing = dice.bold(dice.between(0.1, 0.17) if dice.whole(0, 1) else None)
    long, fat, tall = dice.between(0.14, 0.16), dice.between(0.1, 0.125), dice.between(0.08, 0.1)
    head, neck = dice.between(0.072, 0.088), dice.between(0.045, 0.075)
    top = -0.06 + tall + 0.55 * head
    hull = Blend(
        [
            Ellipsoid((-0.01, -0.06, 0), (long, tall, fat)),
            Capsule((-long * 0.75, -0.04, 0), (-long - 0.03, 0.045, 0), 0.045, 0.015),
            Ellipsoid((neck, top, 0), (head, head, head)),
        ],
        0.05,
    )
    markings = dice.whole(0, 2)
    coat = [solid(body), mottled(body, wing, 0.09, dice.generator), solid(body)][markings]
    beak = Ellipsoid((neck + head + 0.012, top - 0.012, 0), (0.042, 0.015, 0.036))
    eye_x, eye_y = neck + head * 0.78, top + head * 0.38
    wings = [
        Part(Ellipsoid((-0.03, -0.05, side * fat * 0.92), (0.075, 0.045, 0.026)), solid(wing))
        for side in (-1, 1)
    ]
    return [
        Part(hull, coat),
        Part(beak, solid(ORANGE)),
        *wings,
        *_eyes(eye_x, eye_y, head * 0.45, 0.017),
    ]


def rocket(dice: _Dice) -> list[Part]:
    """A banded hull with a nose cone, four fins, a window in front and a flame below."""
    hull, trim = dice.bold()
    radius, nose = dice.between(0.075, 0.1), dice.between(0.07, 0.11)
    fin = dice.between(0.055, 0.075)
    skin = dice.pattern(CREAM, hull) if dice.whole(0, 1) else solid(hull)
    window = dice.between(0.042, 0.055)
    window_y = dice.between(0.0, 0.03)
    fins: list[Part] = [
        Part(Box((sx * (radius + fin * 0.3), -0.115, 0), (fin * 0.75, 0.05, 0.014)), solid(trim))
        for sx in (-1, 1)
    ]
    fins += [
        Part(Box((0, -0.115, sz * (radius + fin * 0.3)), (0.014, 0.05, fin * 0.75)), solid(trim))
        for sz in (-1, 1)
    ]
    flame = Capsule((0, -0.15, 0), (0, -0.195, 0), radius * 0.55, 0.015)
    tip = 0.185
    return [
        Part(Frustum(-0.14, tip - nose, radius * 0.86, radius, rounding=0.01), skin),
        Part(Capsule((0, tip - nose, 0), (0, tip - 0.012, 0), radius, 0.012), solid(trim)),
        *fins,
        Part(Disc((radius * 0.97, window_y, 0), window, 0.012, along_x=True), solid(GREY)),
        Part(
            Disc((radius * 0.97 + 0.008, window_y, 0), window * 0.68, 0.012, along_x=True),
            solid((0.2, 0.65, 0.95)),
        ),
        Part(flame, stripes(YELLOW, ORANGE, Axis.Y, 0.09)),
    ]


def car(dice: _Dice) -> list[Part]:
    """A car with a cabin, four wheels, yellow lights in front and red ones behind."""
    paint, trim = dice.bold()
    long, wide = dice.between(0.155, 0.175), dice.between(0.075, 0.09)
    body, cabin = dice.between(0.035, 0.05), dice.between(0.04, 0.055)
    back = dice.between(-0.06, 0.0)
    wheel = dice.between(0.042, 0.054)
    lines = [solid(paint), stripes(paint, trim, Axis.Z, 2 * wide, 0.25)][dice.whole(0, 1)]
    floor = -0.05
    roof = floor + body + 2 * cabin - 0.01
    glass = Box((back, floor + body + cabin * 0.8, 0), (0.075, cabin * 0.8, wide * 0.86), 0.02)
    parts = [
        Part(Box((0, floor, 0), (long, body, wide), 0.025), lines),
        Part(glass, solid((0.3, 0.6, 0.8))),
        Part(Box((back, roof - 0.018, 0), (0.07, 0.016, wide * 0.88), 0.012), solid(paint)),
    ]
    for x in (-0.6 * long, 0.62 * long):
        for z in (-wide, wide):
            centre = (x, floor - body, z)
            parts.append(Part(Disc(centre, wheel, 0.02), solid(BLACK)))
            parts.append(Part(Disc(centre, wheel * 0.5, 0.024), solid(GREY)))
    for z in (-0.6 * wide, 0.6 * wide):
        front = Ellipsoid((long, floor + 0.008, z), (0.012, 0.02, 0.02))
        rear = Ellipsoid((-long, floor + 0.008, z), (0.012, 0.016, 0.022))
        parts += [Part(front, solid(YELLOW)), Part(rear, solid(RED))]
    return parts


def robot(dice: _Dice) -> list[Part]:
    """A box robot: head with eyes, chest panel in front, arms, legs, antenna, a pack behind."""
    shell, trim = dice.bold()
    chest, waist = dice.between(0.07, 0.09), dice.between(0.06, 0.08)
    deep, head = dice.between(0.05, 0.065), dice.between(0.05, 0.06)
    neck = waist - 0.03
    face = neck + 0.012 + head
    lift = dice.between(-0.09, 0.07)
    plate = stripes(trim, CREAM, Axis.Y, 0.05) if dice.whole(0, 1) else solid(trim)
    parts = [
        Part(Box((0, -0.03, 0), (deep, waist, chest), 0.016), solid(shell)),
        Part(Box((deep, -0.02, 0), (0.01, waist * 0.5, chest * 0.6), 0.006), plate),
        Part(Box((-deep - 0.015, -0.02, 0), (0.025, waist * 0.6, chest * 0.7), 0.012), solid(GREY)),
        Part(Box((0, face, 0), (head, head, head * 1.25), 0.014), solid(trim)),
        Part(Capsule((0, face + head, 0), (0, face + head + 0.02, 0), 0.01, 0.01), solid(GREY)),
        Part(Ellipsoid((0, face + head + 0.026, 0), (0.02, 0.02, 0.02)), solid(RED)),
        *_eyes(head, face + 0.008, head * 0.55, 0.022),
    ]
    for side in (-1, 1):
        shoulder = (0.0, 0.0, side * (chest + 0.012))
        hand = (0.055, lift, side * (chest + 0.035))
        parts.append(Part(Capsule(shoulder, hand, 0.022, 0.022), solid(GREY)))
        parts.append(Part(Ellipsoid(hand, (0.03, 0.03, 0.03)), solid(trim)))
        foot = side * chest * 0.55
        parts.append(Part(Frustum(-0.165, -0.1, 0.028, 0.028, z=foot), solid(GREY)))
        parts.append(Part(Box((0.014, -0.165, foot), (0.05, 0.02, 0.035), 0.01), solid(shell)))
    return parts


def teapot(dice: _Dice) -> list[Part]:
    """A patterned pot with a spout in front, a handle behind, a lid with a knob."""
    glaze, trim = dice.bold()
    fat, tall = dice.between(0.1, 0.125), dice.between(0.085, 0.11)
    spout = Capsule((fat * 0.7, -0.06, 0), (fat + 0.055, 0.035, 0), 0.034, 0.02)
    lid = -0.03 + tall * 0.86
    return [
        Part(Ellipsoid((0, -0.03, 0), (fat, tall, fat)), dice.pattern(glaze, trim)),
        Part(spout, solid(trim)),
        Part(Torus((-fat - 0.012, -0.015, 0), 0.052, 0.018), solid(trim)),
        Part(Frustum(-0.03 - tall - 0.012, -0.03 - tall + 0.02, 0.065, 0.06), solid(trim)),
        Part(Frustum(lid, lid + 0.02, fat * 0.55, fat * 0.4, rounding=0.008), solid(trim)),
        Part(Ellipsoid((0, lid + 0.036, 0), (0.022, 0.022, 0.022)), solid(glaze)),
    ]


TOYS: dict[str, Callable[[_Dice], list[Part]]] = {
    "mushroom": mushroom,
    "duck": duck,
    "rocket": rocket,
    "car": car,
    "robot": robot,
    "teapot": teapot,
}


def make_toy(kind: str, seed: int) -> Toy:
    """One object, fitted into the ball.

    Args:
        kind: a key of `TOYS`.
        seed: proportions, colours and patterns; the same seed gives the same object.
    """
    return fitted(TOYS[kind](_Dice(np.random.default_rng(seed))))
