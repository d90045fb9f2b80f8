"use strict";
// Canvas: size, colour maps, and moving with the mouse.

const MAPS = {
  viridis: ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"],
  grey: ["#000000", "#ffffff"],
  "white to black": ["#ffffff", "#000000"],
};

// 256 colours as 32-bit numbers of a canvas (little endian: alpha, blue, green, red).
function colours(name) {
  const anchors = MAPS[name].map((a) => [1, 3, 5].map((i) => parseInt(a.slice(i, i + 2), 16)));
  return Uint32Array.from({ length: 256 }, (_, i) => {
    const at = (i / 255) * (anchors.length - 1);
    const n = Math.min(Math.floor(at), anchors.length - 2);
    const [r, g, b] = anchors[n].map((a, j) => Math.round(a + (at - n) * (anchors[n + 1][j] - a)));
    return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  });
}

// Make the canvas as large as it is shown; the unit of drawing is a CSS pixel.
function sized(canvas) {
  const scale = window.devicePixelRatio || 1;
  const [w, h] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(w * scale) || canvas.height !== Math.round(h * scale)) {
    canvas.width = Math.round(w * scale);
    canvas.height = Math.round(h * scale);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  return { pen, w, h };
}

// Call `drag(dx, dy, event)` while a pointer is down, `click(x, y)` if it has not moved, `wheel(x, y,
// factor)`, `hover(x, y)` (null outside) and `reset()`. Two fingers zoom.
function moving(canvas, { drag, click, wheel, hover, reset }) {
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const down = new Map();
  let moved = 0;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, place(event));
    if (down.size === 1) moved = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    const before = down.get(event.pointerId);
    if (!before) { hover?.(x, y); return; }
    const [dx, dy] = [x - before[0], y - before[1]];
    moved += Math.hypot(dx, dy);
    if (down.size === 2) {
      const [other] = [...down].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      const apart = (at) => Math.hypot(at[0] - other[0], at[1] - other[1]);
      wheel((x + other[0]) / 2, (y + other[1]) / 2, apart([x, y]) / Math.max(apart(before), 1));
    } else drag(dx, dy, event);
    down.set(event.pointerId, [x, y]);
  });
  const up = (event) => {
    if (event.type === "pointerup" && down.size === 1 && moved < 4) click?.(...place(event));
    down.delete(event.pointerId);
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("pointerleave", () => hover?.(null, null));
  canvas.addEventListener("dblclick", reset);
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    wheel(...place(event), 1.0015 ** -event.deltaY);
  }, { passive: false });
}
