"""Bodies that move: a skeleton bends the grids of skin and cloth that hang on it.

A person's own axes: metres, x to the person's right, y forward, z up, the lower foot at z = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.kernel import kernel

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Hands = Literal["swing", "phone", "call", "carry", "pockets", "folded", "reach", "behind"]
HANDS: tuple[Hands, ...] = ("swing", "phone", "call", "carry", "pockets", "folded", "reach", "behind")

PELVIS, SPINE, CHEST, HEAD = 0, 1, 2, 3
UPPER_ARM, FOREARM, THIGH, SHIN, FOOT = (4, 6), (5, 7), (8, 11), (9, 12), (10, 13)  # right, left
GRIP = (14, 15)
"""What hangs from a hand: it goes where the hand goes and stays upright."""
BONES = 16
PARENT = np.array([-1, 0, 1, 2, 2, 4, 2, 6, 0, 8, 9, 0, 11, 12, 5, 7], np.int32)

BACKGROUND, HEAD_PART, TORSO_PART, UPPER_ARM_PART, LOWER_ARM_PART, UPPER_LEG_PART, LOWER_LEG_PART, FOOT_PART = range(8)


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """Grids of vertices at rest (arms and legs straight down) with what bends and paints them.

    Args:
        rest: (V, 3) float32 metres.
        bones: (V, 2) uint8, the two bones a vertex follows; weight: (V,) float32, the share of the first.
        sway: (V,) float32, how far a vertex of a skirt gives way to the legs inside, 0 to 1.
        uv: (V, 2) float32, angle around (0.5 is the front) and height (0 is the top) in the texture.
        occlusion: (V,) float32, light that reaches it past the rest of the body, 0 to 1.
        texture: (V,) int32.
        is_body: (V,) bool, False for what is carried.
        pieces: (P, 3) int32, first vertex, rows and columns of each grid.
        triangles: (T, 3) int32, triangle_texture: (T,) int32, triangle_part: (T,) uint8.
        pick: (V,) int32, the vertices of the fine mesh that these are.
    """

    rest: Float32
    bones: NDArray[np.uint8]
    weight: Float32
    sway: Float32
    uv: Float32
    occlusion: Float32
    texture: Int32
    is_body: NDArray[np.bool_]
    pieces: Int32
    triangles: Int32
    triangle_texture: Int32
    triangle_part: NDArray[np.uint8]
    pick: Int32


@dataclass(frozen=True, slots=True, eq=False)
class Appearance:
    """Everything about a drawn person that stays the same from camera to camera.

    Args:
        height_m: from sole to crown without hat.
        stride_m: metres on the floor per gait cycle (two steps) when `pose(stride=1)`.
        pivots: (16, 3) float32 metres, the joints at rest.
        landmarks: (17, 3) float32 metres, the COCO joints at rest.
        gait: (8,) float32, how this person walks and holds himself: hip, knee, arm and elbow amplitude, arm spread,
            stoop, sway and toe-out, in radians.
        fine, coarse: the meshes of near and far people.
        textures: at most four levels, each (T, h, w, 5) uint8: red, green, blue, slope across and along (128 is flat).
        tints: (T, 3) float32, what each texture's colours are multiplied by.
        traits: what a person would say about this one, such as {"top": "shirt", "print": "yes"}.
    """

    height_m: float
    stride_m: float
    pivots: Float32
    landmarks: Float32
    gait: Float32
    fine: Mesh
    coarse: Mesh
    textures: tuple[NDArray[np.uint8], ...]
    tints: Float32
    traits: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """A person in one pose.

    Args:
        vertices: (V, 3) float32 metres of the fine mesh.
        frames: (V, 9) float32, its unit normals, directions around and directions along.
        joints: (17, 3) float32 metres, COCO order.
        feet: (2, 3) float32 metres, the soles' middles.
    """

    appearance: Appearance
    vertices: Float32
    frames: Float32
    joints: Float32
    feet: Float32

    def joints_at(self, heading: float, position: tuple[float, float]) -> NDArray[np.float64]:
        """The joints in the world (17, 3), metres, of the person who stands at `position` and faces `heading`."""
        return _placed(self.joints, heading, position)

    def outline_at(self, heading: float, position: tuple[float, float]) -> NDArray[np.float64]:
        """Every third vertex of the body, bags left out, in the world (V, 3), metres: enough to find the body's box."""
        return _placed(self.vertices[self.appearance.fine.is_body][::3], heading, position)


def _placed(points: Float32, heading: float, position: tuple[float, float]) -> NDArray[np.float64]:
    cos, sin = np.cos(heading), np.sin(heading)
    turn = np.array([[sin, -cos, 0], [cos, sin, 0], [0, 0, 1]])
    return np.asarray(points @ turn + [position[0], position[1], 0.0])


JOINT_BONE = np.array([3, 3, 3, 3, 3, 6, 4, 7, 5, 7, 5, 11, 8, 12, 9, 13, 10], np.int32)
"""The bone each COCO joint follows."""


def pose(
    appearance: Appearance,
    phase: float,
    stride: float = 1.0,
    hands: Hands = "swing",
    seated: bool = False,
    look: float = 0.0,
) -> Figure:
    """Bend a person into one moment of walking or standing.

    Args:
        phase: place in the gait cycle, 0 to 1 and round again; 0 is the right heel's strike. Someone who stands sways with it.
        stride: 0 stands, 1 walks, 1.6 runs.
        look: radians the head is turned to the person's left.
    """
    angles = np.zeros((BONES, 3), np.float32)
    _legs(angles, appearance.gait, phase, stride, seated)
    _arms(angles, appearance.gait, phase, stride, hands)
    angles[HEAD] += (-0.5 * appearance.gait[5] + (-0.35 if hands == "phone" else 0.0), 0, look)
    vertices, frames, joints, feet = _bend(
        angles, appearance.pivots, appearance.landmarks, appearance.fine.rest, appearance.fine.bones,
        appearance.fine.weight, appearance.fine.sway, appearance.fine.pieces,
    )  # fmt: skip
    return Figure(appearance, vertices, frames, joints, feet)


def _bump(phase: float, middle: float, width: float) -> float:
    away = (phase - middle + 0.5) % 1.0 - 0.5
    return float(np.exp(-((away / width) ** 2)))


def _legs(angles: Float32, gait: Float32, phase: float, stride: float, seated: bool) -> None:
    hip, knee, _, _, _, stoop, sway, toe_out = (float(g) for g in gait)
    swing = np.cos(2 * np.pi * phase)
    angles[PELVIS] = (
        -stoop * 0.2,
        sway * 0.5 * np.sin(2 * np.pi * phase) * (0.4 + 0.6 * stride),
        0.10 * swing * stride,
    )
    angles[SPINE] = (
        -stoop * 0.5 - 0.04 * max(stride, 0),
        -sway * 0.5 * np.sin(2 * np.pi * phase),
        -0.08 * swing * stride,
    )
    angles[CHEST] = (-stoop * 0.5, -sway * 0.3 * np.sin(2 * np.pi * phase), -0.12 * swing * stride)
    for side in (0, 1):
        out = toe_out * (1 if side else -1)
        if seated:
            angles[THIGH[side]] = (1.45, -0.08 * (1 if side else -1), out)
            angles[SHIN[side]] = (-1.45, 0, 0)
            continue
        t = (phase + 0.5 * side) % 1.0
        bend = hip * (np.cos(2 * np.pi * t) + 0.25) * stride + (0.02 if stride else 0.01 * np.sin(2 * np.pi * phase))
        fold = (knee * _bump(t, 0.73, 0.13) + 0.16 * _bump(t, 0.13, 0.1)) * min(stride, 1.5) + 0.06
        tip = (0.3 * _bump(t, 0.0, 0.06) - 0.65 * _bump(t, 0.60, 0.09) - 0.25 * _bump(t, 0.72, 0.1)) * min(stride, 1.3)
        angles[THIGH[side]] = (bend, 0.0, out)
        angles[SHIN[side]] = (-fold, 0, 0)
        angles[FOOT[side]] = (tip - bend + fold, 0, 0)


def _arms(angles: Float32, gait: Float32, phase: float, stride: float, hands: Hands) -> None:
    _, _, arm, elbow, spread, _, _, _ = (float(g) for g in gait)
    for side in (0, 1):
        sign = 1 if side else -1  # the right arm leaves the body against the turn of its axis
        swing = -np.cos(2 * np.pi * (phase + 0.5 * side))
        upper = [arm * swing * stride + 0.03, spread * sign, 0.0]
        lower = [elbow * (0.6 + 0.4 * swing) * (0.4 + 0.6 * stride) + 0.12, 0.0, 0.0]
        if hands == "call" and side == 0:
            upper, lower = [0.75, 0.45 * sign, 0.5], [2.35, 0.0, 0.0]
        elif hands == "phone" and side == 0:
            upper, lower = [0.45, 0.08 * sign, 0.35], [1.55, 0.0, 0.0]
        elif hands == "carry":
            upper, lower = [0.28, 0.10 * sign, 0.18 * -sign], [1.25, 0.0, 0.0]
        elif hands == "pockets":
            upper, lower = [-0.22, 0.24 * sign, 0.0], [0.55, 0.0, -0.5 * sign]
        elif hands == "folded":
            upper, lower = [0.5, 0.08 * sign, -0.75 * sign], [1.75, 0.0, 0.0]
        elif hands == "behind":
            upper, lower = [-0.45, 0.12 * sign, 0.5 * sign], [0.5, 0.0, 0.0]
        elif hands == "reach" and side == 0:
            upper, lower = [1.35, 0.15 * sign, 0.0], [0.35, 0.0, 0.0]
        angles[UPPER_ARM[side]] = upper
        angles[FOREARM[side]] = lower


@kernel
def _bend(angles, pivots, landmarks, rest, bones, weight, sway, pieces):  # type: ignore[no-untyped-def]
    """Move every vertex with its two bones, let skirts give way to the legs, and work out the surface's directions."""
    turns = np.zeros((BONES, 3, 3), np.float32)
    origins = np.zeros((BONES, 3), np.float32)
    local = np.zeros((3, 3), np.float32)
    for b in range(BONES):
        cx, sx = np.cos(angles[b, 0]), np.sin(angles[b, 0])
        cy, sy = np.cos(angles[b, 1]), np.sin(angles[b, 1])
        cz, sz = np.cos(angles[b, 2]), np.sin(angles[b, 2])
        local[0, 0], local[0, 1], local[0, 2] = cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx
        local[1, 0], local[1, 1], local[1, 2] = sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx
        local[2, 0], local[2, 1], local[2, 2] = -sy, cy * sx, cy * cx
        p = PARENT[b]
        for r in range(3):
            if p < 0:
                origins[b, r] = pivots[b, r]
                for c in range(3):
                    turns[b, r, c] = local[r, c]
            else:
                origins[b, r] = origins[p, r]
                for k in range(3):
                    origins[b, r] += turns[p, r, k] * (pivots[b, k] - pivots[p, k])
                    for c in range(3):
                        turns[b, r, c] += turns[p, r, k] * local[k, c]
        if b >= GRIP[0]:
            turns[b] = turns[PELVIS]
    feet = np.zeros((2, 3), np.float32)
    lowest = np.float32(1e9)
    for side in range(2):
        foot = 10 + 3 * side
        length = pivots[foot, 2] / np.float32(0.045)
        for end in range(2):
            y = (np.float32(-0.03), np.float32(0.10))[end] * length
            for r in range(3):
                at = origins[foot, r] + turns[foot, r, 1] * y - turns[foot, r, 2] * pivots[foot, 2]
                feet[side, r] += at / 2
                if r == 2:
                    lowest = min(lowest, at)
    for b in range(BONES):
        origins[b, 2] -= lowest
    feet[:, 2] -= lowest

    joints = np.empty((17, 3), np.float32)
    for j in range(17):
        b = JOINT_BONE[j]
        for r in range(3):
            joints[j, r] = origins[b, r]
            for k in range(3):
                joints[j, r] += turns[b, r, k] * (landmarks[j, k] - pivots[b, k])

    count = len(rest)
    vertices = np.empty((count, 3), np.float32)
    for i in range(count):
        for r in range(3):
            value = np.float32(0.0)
            for s in range(2):
                b = bones[i, s]
                share = weight[i] if s == 0 else np.float32(1.0) - weight[i]
                if share > 0:
                    at = origins[b, r]
                    for k in range(3):
                        at += turns[b, r, k] * (rest[i, k] - pivots[b, k])
                    value += share * at
            vertices[i, r] = value
        if sway[i] > 0:
            front = np.float32(-1e9)
            back = np.float32(1e9)
            for side in range(2):
                hip, knee, ankle = 8 + 3 * side, 9 + 3 * side, 10 + 3 * side
                high, low = hip, knee
                if vertices[i, 2] < origins[knee, 2]:
                    high, low = knee, ankle
                fall = origins[high, 2] - origins[low, 2]
                t = np.float32(1.0)
                if fall > 1e-3:
                    t = min(np.float32(1.0), max(np.float32(0.0), (origins[high, 2] - vertices[i, 2]) / fall))
                y = origins[high, 1] + t * (origins[low, 1] - origins[high, 1])
                front = max(front, y)
                back = min(back, y)
            lean = vertices[i, 1] - origins[0, 1]
            reach = np.sqrt(lean * lean + rest[i, 0] * rest[i, 0]) + np.float32(1e-3)
            share = sway[i] * min(np.float32(1.0), np.float32(1.7) * np.abs(lean) / reach)
            if lean > 0:
                vertices[i, 1] += share * max(np.float32(0.0), front)
            else:
                vertices[i, 1] += share * min(np.float32(0.0), back)

    frames = np.empty((count, 9), np.float32)
    for p in range(len(pieces)):
        first, rows, columns = pieces[p, 0], pieces[p, 1], pieces[p, 2]
        for row in range(rows):
            up, down = max(row - 1, 0), min(row + 1, rows - 1)
            for column in range(columns):
                left = column - 1 if column > 0 else columns - 2
                right = column + 1 if column < columns - 1 else 1
                i = first + row * columns + column
                before, after = first + row * columns + left, first + row * columns + right
                a, b = first + up * columns + column, first + down * columns + column
                ux = vertices[after, 0] - vertices[before, 0]
                uy = vertices[after, 1] - vertices[before, 1]
                uz = vertices[after, 2] - vertices[before, 2]
                vx, vy, vz = (
                    vertices[b, 0] - vertices[a, 0],
                    vertices[b, 1] - vertices[a, 1],
                    vertices[b, 2] - vertices[a, 2],
                )
                nx, ny, nz = vy * uz - vz * uy, vz * ux - vx * uz, vx * uy - vy * ux
                n = np.sqrt(nx * nx + ny * ny + nz * nz) + np.float32(1e-12)
                u = np.sqrt(ux * ux + uy * uy + uz * uz) + np.float32(1e-12)
                v = np.sqrt(vx * vx + vy * vy + vz * vz) + np.float32(1e-12)
                frames[i, 0], frames[i, 1], frames[i, 2] = nx / n, ny / n, nz / n
                frames[i, 3], frames[i, 4], frames[i, 5] = ux / u, uy / u, uz / u
                frames[i, 6], frames[i, 7], frames[i, 8] = vx / v, vy / v, vz / v
    return vertices, frames, joints, feet
