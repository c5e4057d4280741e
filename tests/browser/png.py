"""Pictures of a fraction of their size: 256 colours are enough for a page, and a browser has all that it takes."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

SHRINK = """async (png) => {
    const bytes = Uint8Array.from(atob(png), (each) => each.charCodeAt(0));
    const image = await createImageBitmap(new Blob([bytes], {type: "image/png"}));
    const {width, height} = image;
    const context = new OffscreenCanvas(width, height).getContext("2d");
    context.drawImage(image, 0, 0);
    const pixels = new Uint32Array(context.getImageData(0, 0, width, height).data.buffer);
    const counts = new Map();
    for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) || 0) + 1);
    // The frequent ones; then, for the small red dot, those that are least like any of them.
    const palette = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 192).map(([colour]) => colour);
    const parts = (colour) => [colour & 255, (colour >> 8) & 255, (colour >> 16) & 255];
    const distance = (a, b) => parts(a).reduce((sum, part, i) => sum + (part - parts(b)[i]) ** 2, 0);
    const far = new Map([...counts.keys()].map((colour) => [
        colour, palette.reduce((least, each) => Math.min(least, distance(each, colour)), Infinity),
    ]));
    while (palette.length < Math.min(256, counts.size)) {
        const [odd] = [...far].reduce((most, each) => (each[1] > most[1] ? each : most));
        palette.push(odd);
        far.forEach((least, colour) => far.set(colour, Math.min(least, distance(odd, colour))));
    }
    const places = new Map(palette.map((colour, place) => [colour, place]));
    for (const colour of counts.keys()) {
        if (places.has(colour)) continue;
        let best = 0;
        palette.forEach((each, place) => {
            if (distance(each, colour) < distance(palette[best], colour)) best = place;
        });
        places.set(colour, best);
    }
    const rows = new Uint8Array((width + 1) * height); // before each row its filter, which is none
    for (let y = 0; y < height; y += 1)
        for (let x = 0; x < width; x += 1)
            rows[y * (width + 1) + x + 1] = places.get(pixels[y * width + x]);
    let text = "";
    for (let at = 0; at < rows.length; at += 32768)
        text += String.fromCharCode(...rows.subarray(at, at + 32768));
    return {width, height, palette: palette.flatMap(parts), rows: btoa(text)};
}"""


def shrunk(page: Any, image: bytes) -> bytes:
    """
    Args:
        page: any page of Playwright's.
        image: PNG.
    """
    found = page.evaluate(SHRINK, base64.b64encode(image).decode())
    header = struct.pack(">IIBBBBB", found["width"], found["height"], 8, 3, 0, 0, 0)
    parts = [
        _chunk(b"IHDR", header),
        _chunk(b"PLTE", bytes(found["palette"])),
        _chunk(b"IDAT", zlib.compress(base64.b64decode(found["rows"]), 9)),
        _chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
