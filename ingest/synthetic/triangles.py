"""The compiled loops behind `raster`: vertices to pixels and shades, triangles into buffers, shadows onto the floor."""

from __future__ import annotations

import numpy as np

from ingest.synthetic.camera import NEAR_M
from ingest.synthetic.kernel import kernel


@kernel
def place(vertices, frames, uv, occlusion, texture, tints, turn, spot, view, eye, lens, directions, colours, ambient):  # type: ignore[no-untyped-def]
    """Pixels, inverse depths and shading of a mesh: (V, 3) and (V, 7) u, v, red, green, blue, bump across, bump along."""
    count = len(vertices)
    screen = np.empty((count, 3), np.float32)
    attributes = np.empty((count, 7), np.float32)
    world = np.empty(3, np.float32)
    axes = np.empty((3, 3), np.float32)
    for i in range(count):
        for c in range(3):
            world[c] = spot[c]
            for d in range(3):
                world[c] += vertices[i, d] * turn[d, c]
            for a in range(3):
                axes[a, c] = 0.0
                for d in range(3):
                    axes[a, c] += frames[i, 3 * a + d] * turn[d, c]
        x = world[0] - eye[0]
        y = world[1] - eye[1]
        z = world[2] - eye[2]
        depth = view[2, 0] * x + view[2, 1] * y + view[2, 2] * z
        if depth > np.float32(NEAR_M):
            inverse = np.float32(1.0) / depth
            screen[i, 0] = lens[0] * (view[0, 0] * x + view[0, 1] * y + view[0, 2] * z) * inverse + lens[1]
            screen[i, 1] = lens[0] * (view[1, 0] * x + view[1, 1] * y + view[1, 2] * z) * inverse + lens[2]
            screen[i, 2] = inverse
        else:
            screen[i, 2] = np.float32(-1.0)
        distance = np.sqrt(x * x + y * y + z * z) + np.float32(1e-6)
        facing = -(axes[0, 0] * x + axes[0, 1] * y + axes[0, 2] * z) / distance
        rim = np.float32(0.72) + np.float32(0.28) * min(np.float32(1.0), max(np.float32(0.0), facing) * np.float32(1.6))
        sky = np.float32(0.78) + np.float32(0.22) * axes[0, 2]
        across = np.float32(0.0)
        along = np.float32(0.0)
        for c in range(3):
            attributes[i, 2 + c] = ambient[c] * sky
        for k in range(len(directions)):
            lit = axes[0, 0] * directions[k, 0] + axes[0, 1] * directions[k, 1] + axes[0, 2] * directions[k, 2]
            lit = max(np.float32(0.0), (lit + np.float32(0.25)) * np.float32(0.8))
            for c in range(3):
                attributes[i, 2 + c] += colours[k, c] * lit
        for c in range(3):
            across += axes[1, c] * directions[0, c]
            along += axes[2, c] * directions[0, c]
            attributes[i, 2 + c] *= rim * occlusion[i] * tints[texture[i], c]
        attributes[i, 0] = uv[i, 0]
        attributes[i, 1] = uv[i, 1]
        attributes[i, 5] = across
        attributes[i, 6] = along
    return screen, attributes


@kernel
def extent(screen, counts, box):  # type: ignore[no-untyped-def]
    """The box around the vertices that count; False if any of them lies behind the camera or none counts."""
    box[0] = box[1] = np.float32(1e9)
    box[2] = box[3] = np.float32(-1e9)
    seen = False
    for i in range(len(screen)):
        if counts[i] and screen[i, 2] > 0:
            seen = True
            box[0] = min(box[0], screen[i, 0])
            box[1] = min(box[1], screen[i, 1])
            box[2] = max(box[2], screen[i, 0])
            box[3] = max(box[3], screen[i, 1])
    return seen


@kernel
def fill(  # type: ignore[no-untyped-def]
    colour,
    depth,
    owner,
    part,
    touched,
    stamp,
    screen,
    attributes,
    triangles,
    triangle_texture,
    triangle_part,
    textures,
    who,
    cull,
):
    """Fill triangles front to back by depth. Returns how many pixels they cover, whatever stands before them."""
    height, width = depth.shape
    texture_h, texture_w = textures.shape[1], textures.shape[2]
    covered = 0
    for t in range(len(triangles)):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        za, zb, zc = screen[a, 2], screen[b, 2], screen[c, 2]
        if za <= 0 or zb <= 0 or zc <= 0:
            continue
        xa, ya = screen[a, 0], screen[a, 1]
        xb, yb = screen[b, 0], screen[b, 1]
        xc, yc = screen[c, 0], screen[c, 1]
        area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
        if area == 0 or (cull and area < 0):
            continue
        low_y = max(0, int(np.ceil(min(ya, yb, yc))))
        high_y = min(height - 1, int(np.floor(max(ya, yb, yc))))
        low_x = max(0, int(np.ceil(min(xa, xb, xc))))
        high_x = min(width - 1, int(np.floor(max(xa, xb, xc))))
        if low_y > high_y or low_x > high_x:
            continue
        inverse = np.float32(1.0) / area
        sheet = triangle_texture[t]
        label = triangle_part[t]
        for y in range(low_y, high_y + 1):
            for x in range(low_x, high_x + 1):
                wa = ((xb - x) * (yc - y) - (xc - x) * (yb - y)) * inverse
                wb = ((xc - x) * (ya - y) - (xa - x) * (yc - y)) * inverse
                wc = np.float32(1.0) - wa - wb
                if wa < 0 or wb < 0 or wc < 0:
                    continue
                if touched[y, x] != stamp:
                    touched[y, x] = stamp
                    covered += 1
                z = np.float32(1.0) / (wa * za + wb * zb + wc * zc)
                if z >= depth[y, x]:
                    continue
                depth[y, x] = z
                owner[y, x] = who
                part[y, x] = label
                pa, pb, pc = wa * za * z, wb * zb * z, wc * zc * z
                u = pa * attributes[a, 0] + pb * attributes[b, 0] + pc * attributes[c, 0]
                v = pa * attributes[a, 1] + pb * attributes[b, 1] + pc * attributes[c, 1]
                column = int(np.floor((u - np.floor(u)) * texture_w)) % texture_w
                row = int(np.floor((v - np.floor(v)) * texture_h)) % texture_h
                across = pa * attributes[a, 5] + pb * attributes[b, 5] + pc * attributes[c, 5]
                along = pa * attributes[a, 6] + pb * attributes[b, 6] + pc * attributes[c, 6]
                bump = (textures[sheet, row, column, 3] - np.float32(128)) * across
                bump += (textures[sheet, row, column, 4] - np.float32(128)) * along
                bump = min(np.float32(1.7), max(np.float32(0.35), np.float32(1.0) - bump * np.float32(0.008)))
                for k in range(3):
                    shade = pa * attributes[a, 2 + k] + pb * attributes[b, 2 + k] + pc * attributes[c, 2 + k]
                    value = textures[sheet, row, column, k] * shade * bump
                    colour[y, x, k] = np.uint8(min(np.float32(255), value))
    return covered


@kernel
def cast_shadow(vertices, turn, spot, view, eye, lens, direction):  # type: ignore[no-untyped-def]
    """Where the shadows of vertices fall on the floor, in pixels and inverse depth."""
    screen = np.empty((len(vertices), 3), np.float32)
    rise = max(direction[2], np.float32(0.35))  # a low light would throw shadows across the whole floor
    for i in range(len(vertices)):
        lift = vertices[i, 2] / rise
        x = spot[0] + vertices[i, 0] * turn[0, 0] + vertices[i, 1] * turn[1, 0] - direction[0] * lift - eye[0]
        y = spot[1] + vertices[i, 0] * turn[0, 1] + vertices[i, 1] * turn[1, 1] - direction[1] * lift - eye[1]
        z = -eye[2]
        depth = view[2, 0] * x + view[2, 1] * y + view[2, 2] * z
        if depth > np.float32(NEAR_M):
            inverse = np.float32(1.0) / depth
            screen[i, 0] = lens[0] * (view[0, 0] * x + view[0, 1] * y + view[0, 2] * z) * inverse + lens[1]
            screen[i, 1] = lens[0] * (view[1, 0] * x + view[1, 1] * y + view[1, 2] * z) * inverse + lens[2]
            screen[i, 2] = inverse
        else:
            screen[i, 2] = np.float32(-1.0)
    return screen


@kernel
def darken(colour, depth, touched, stamp, screen, triangles, factor):  # type: ignore[no-untyped-def]
    """Darken each pixel under the triangles once, unless something solid stands before the floor there."""
    height, width = depth.shape
    for t in range(len(triangles)):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        if screen[a, 2] <= 0 or screen[b, 2] <= 0 or screen[c, 2] <= 0:
            continue
        xa, ya = screen[a, 0], screen[a, 1]
        xb, yb = screen[b, 0], screen[b, 1]
        xc, yc = screen[c, 0], screen[c, 1]
        area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
        if area == 0:
            continue
        inverse = np.float32(1.0) / area
        near = np.float32(1.0) / max(screen[a, 2], screen[b, 2], screen[c, 2])
        for y in range(max(0, int(np.ceil(min(ya, yb, yc)))), min(height - 1, int(np.floor(max(ya, yb, yc)))) + 1):
            for x in range(max(0, int(np.ceil(min(xa, xb, xc)))), min(width - 1, int(np.floor(max(xa, xb, xc)))) + 1):
                wa = ((xb - x) * (yc - y) - (xc - x) * (yb - y)) * inverse
                wb = ((xc - x) * (ya - y) - (xa - x) * (yc - y)) * inverse
                if wa < 0 or wb < 0 or wa + wb > 1 or touched[y, x] == stamp:
                    continue
                touched[y, x] = stamp
                if depth[y, x] > near * np.float32(0.985):
                    for k in range(3):
                        colour[y, x, k] = np.uint8(colour[y, x, k] * factor)


@kernel
def darken_around(colour, depth, middle, radius, view, eye, lens, strength):  # type: ignore[no-untyped-def]
    """Darken the floor softly within `radius` metres of a point of it: the shadow where a shoe meets the ground."""
    height, width = depth.shape
    x, y, z = middle[0] - eye[0], middle[1] - eye[1], -eye[2]
    near = view[2, 0] * x + view[2, 1] * y + view[2, 2] * z
    if near <= np.float32(2 * NEAR_M) or z >= 0:
        return
    column = lens[0] * (view[0, 0] * x + view[0, 1] * y + view[0, 2] * z) / near + lens[1]
    line = lens[0] * (view[1, 0] * x + view[1, 1] * y + view[1, 2] * z) / near + lens[2]
    reach = lens[0] * radius / near * np.float32(1.1)
    for row in range(max(0, int(line - reach)), min(height, int(line + reach) + 2)):
        for col in range(max(0, int(column - reach)), min(width, int(column + reach) + 2)):
            p = (col - lens[1]) / lens[0]
            q = (row - lens[2]) / lens[0]
            down = p * view[0, 2] + q * view[1, 2] + view[2, 2]
            if down >= 0:
                continue
            far = -eye[2] / down
            if depth[row, col] < far * np.float32(0.985):
                continue
            dx = eye[0] + far * (p * view[0, 0] + q * view[1, 0] + view[2, 0]) - middle[0]
            dy = eye[1] + far * (p * view[0, 1] + q * view[1, 1] + view[2, 1]) - middle[1]
            fall = np.float32(1.0) - (dx * dx + dy * dy) / (radius * radius)
            if fall > 0:
                for k in range(3):
                    colour[row, col, k] = np.uint8(colour[row, col, k] * (np.float32(1.0) - strength * fall * fall))
