"""Collects the grids of one person into the fine and the coarse mesh."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ingest.synthetic.body import Mesh

Array = NDArray[np.float64]


class Grids:
    """The pieces of skin, cloth and baggage of one person, added one by one."""

    def __init__(self, height_m: float) -> None:
        self._height_m = height_m
        self._grids: list[Array] = []
        self._bones: list[NDArray[np.uint8]] = []
        self._weights: list[Array] = []
        self._sways: list[Array] = []
        self._shades: list[Array] = []
        self._parts: list[NDArray[np.int64]] = []
        self._textures: list[int] = []
        self._bodies: list[bool] = []

    def add(
        self,
        grid: Array,
        texture: int,
        part: NDArray[np.int64] | int,
        bones: Sequence[int],
        joints: Sequence[float],
        *,
        half: float = 0.02,
        sway: Array | float = 0.0,
        occlusion: Array | float = 1.0,
        body: bool = True,
        inside_top: bool = False,
    ) -> None:
        """Hang a grid (odd rows, odd columns, 3) on bones.

        Args:
            part: label of each vertex, or of all.
            bones: from top to bottom; joints: the heights between them, shares of the person's height; the two bones
                share what lies within `half` of a joint.
            inside_top: the topmost row closes an opening: it lies in the dark.
        """
        rows, columns = grid.shape[:2]
        level = grid[..., 2] / self._height_m
        pair = np.full((rows, columns, 2), bones[0], np.uint8)
        weight = np.ones((rows, columns))
        for index, joint in enumerate(joints):
            below = level < joint + half
            pair[below] = bones[index], bones[index + 1]
            t = np.clip((level - (joint - half)) / (2 * half), 0, 1)
            weight[below] = (t * t * (3 - 2 * t))[below]
        shade = np.broadcast_to(np.asarray(occlusion, np.float64), (rows, columns)).copy()
        if inside_top:
            shade[0] *= 0.45
        self._grids.append(grid)
        self._bones.append(pair)
        self._weights.append(weight)
        self._sways.append(np.broadcast_to(np.asarray(sway, np.float64), (rows, columns)))
        self._shades.append(shade)
        self._parts.append(np.broadcast_to(np.asarray(part, np.int64), (rows, columns)))
        self._textures.append(texture)
        self._bodies.append(body)

    def meshes(self) -> tuple[Mesh, Mesh]:
        """The fine mesh and, of every second row and column, the coarse one."""
        starts = np.cumsum([0, *(g.shape[0] * g.shape[1] for g in self._grids)])
        every = [
            np.arange(s, s + g.shape[0] * g.shape[1]).reshape(g.shape[:2])
            for s, g in zip(starts, self._grids, strict=False)
        ]
        return self._mesh(every), self._mesh([index[::2, ::2] for index in every])

    def _mesh(self, picks: list[NDArray[np.int64]]) -> Mesh:
        pick = np.concatenate([p.ravel() for p in picks])
        flat = {
            "rest": np.concatenate([g.reshape(-1, 3) for g in self._grids]),
            "bones": np.concatenate([b.reshape(-1, 2) for b in self._bones]),
            "weight": np.concatenate([w.ravel() for w in self._weights]),
            "sway": np.concatenate([s.ravel() for s in self._sways]),
            "shade": np.concatenate([s.ravel() for s in self._shades]),
            "part": np.concatenate([p.ravel() for p in self._parts]),
            "uv": np.concatenate([_uv(*g.shape[:2]) for g in self._grids]),
            "texture": np.concatenate(
                [np.full(g.shape[0] * g.shape[1], t) for g, t in zip(self._grids, self._textures, strict=True)]
            ),
            "body": np.concatenate(
                [np.full(g.shape[0] * g.shape[1], b) for g, b in zip(self._grids, self._bodies, strict=True)]
            ),
        }
        pieces, triangles, sheets, parts = [], [], [], []
        first = 0
        for picked, texture in zip(picks, self._textures, strict=True):
            rows, columns = picked.shape
            pieces.append((first, rows, columns))
            index = first + np.arange(rows * columns).reshape(rows, columns)
            a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
            made = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([b, d, c], -1).reshape(-1, 3)])
            triangles.append(made)
            sheets.append(np.full(len(made), texture))
            parts.append(flat["part"][picked[1:, :-1]].reshape(-1))
            parts.append(parts[-1])
            first += rows * columns
        return Mesh(
            rest=flat["rest"][pick].astype(np.float32),
            bones=flat["bones"][pick].astype(np.uint8),
            weight=flat["weight"][pick].astype(np.float32),
            sway=flat["sway"][pick].astype(np.float32),
            uv=flat["uv"][pick].astype(np.float32),
            occlusion=flat["shade"][pick].astype(np.float32),
            texture=flat["texture"][pick].astype(np.int32),
            is_body=flat["body"][pick].astype(np.bool_),
            pieces=np.array(pieces, np.int32),
            triangles=np.concatenate(triangles).astype(np.int32),
            triangle_texture=np.concatenate(sheets).astype(np.int32),
            triangle_part=np.concatenate(parts).astype(np.uint8),
            pick=pick.astype(np.int32),
        )


def _uv(rows: int, columns: int) -> Array:
    """Texture places of a grid: u goes once round, v stays half a texel inside so that hems do not meet collars."""
    v, u = np.mgrid[0:rows, 0:columns]
    return np.stack([u / (columns - 1), 0.008 + 0.984 * v / (rows - 1)], axis=-1).reshape(-1, 2)
