"use strict";
// Frames of a rotation with masks, spots and rings of resolution.

const state = { rotations: [], about: null, layers: [], spots: null, view: null, running: null, over: null };
const KINDS = [null, 0xffa779cc, 0xff005ed5, 0xffb0b0b0];  // 3-D mask, pixel mask, no pixel: ABGR
const INK = { found: "#ffffff", flagged: "#ff9ed2", predicted: "#ff4d4d", ring: "#ffffffcc" };
const DARK = { ...INK, found: "#0b5394", flagged: "#b3007a", ring: "#00000088" };
const inks = () => ($("map").value === "white to black" ? DARK : INK);

const chosen = () => state.rotations.find((a) => a.sample === $("sample").value
  && a.scan === $("scan").value && a.name === $("rotation").value);

function choose(wanted) {
  const of = (key) => state.rotations.filter((a) => (key === "scan" || a.scan === $("scan").value)
    && a.sample === $("sample").value);
  fill($("sample"), [...new Set(state.rotations.map((a) => a.sample))].map((a) => [a, a]), wanted.sample);
  fill($("scan"), scansOf(of("scan")), wanted.scan);
  fill($("rotation"), of("rotation").map((a) => [a.name, a.label]), wanted.rotation);
}

async function open() {
  const item = chosen();
  if (!item) throw new Error("this experiment has no imported rotation yet; run snakemake");
  const about = await ask("rotation", { id: item.id });
  const same = state.about?.shape.join() === about.shape.join();
  Object.assign(state, { about, layers: [] });
  if (!same) state.view = null;
  for (const id of ["slider", "first"]) $(id).max = about.frames - 1;
  $("n").max = Math.min(about.most, about.frames);
  await load();
}

function shown() {
  const { about } = state;
  const whole = (id, low, high) => Math.max(low, Math.min(high, Math.round(+$(id).value) || low));
  const first = whole("first", 0, about.frames - 1);
  const n = whole("n", 1, Math.min(about.most, about.frames - first));
  $("first").value = $("slider").value = first;
  $("n").value = n;
  return { first, n };
}

function query() {
  const { first, n } = shown();
  return { id: chosen().id, first, n, how: $("how").value, all: $("all").checked ? 1 : "" };
}

async function load() {
  state.running?.abort();
  const { signal } = (state.running = new AbortController());
  for (const id of ["sliding", "many"]) $(id).hidden = $("all").checked;
  const asked = query();
  const item = chosen();
  history.replaceState(null, "", `#${new URLSearchParams({ sample: item.sample, scan: item.scan,
    rotation: item.name, first: asked.first, n: asked.n })}`);
  const { w, h } = sized($("view"));
  const most = Math.min(2000, Math.ceil(Math.max(w, h) * (window.devicePixelRatio || 1)));
  const [image, spots] = await Promise.all([
    ask("frame", { ...asked, hide: $("hide").checked ? 1 : "", most }, signal),
    ask("spots", { ...asked, within: $("within").value || "0" }, signal)]);
  if (signal.aborted) return;
  Object.assign(state, { layers: [image], spots, asked });
  draw();
  await closer();
}

// A part of a large frame with all of its pixels.
async function closer() {
  const [image] = state.layers;
  if (!image || image.size === 1) return;
  const { w, h } = sized($("view"));
  const { scale, slow, fast } = state.view;
  const [n_slow, n_fast] = state.about.shape;
  const cut = (a, n) => Math.max(0, Math.min(n, a));
  const part = [cut(Math.floor(slow), n_slow), cut(Math.ceil(slow + h / scale), n_slow),
    cut(Math.floor(fast), n_fast), cut(Math.ceil(fast + w / scale), n_fast)];
  const most = Math.min(2000, Math.ceil(Math.max(w, h) * (window.devicePixelRatio || 1)));
  const size = Math.ceil(Math.max(part[1] - part[0], part[3] - part[2]) / most);
  if (size < 1 || size >= image.size || part[0] >= part[1] || part[2] >= part[3]) {
    state.layers.length = 1;
    draw();
    return;
  }
  const { signal } = state.running;
  const detail = await ask("frame", { ...state.asked, hide: $("hide").checked ? 1 : "", most,
    window: part.join() }, signal);
  if (signal.aborted) return;
  state.layers = [image, detail];
  draw();
}
const closerSoon = soon(guarded(closer), 250);

// Percentiles of a part of the pixels: moving the picture must not sort a million numbers.
function automatic(layer, log) {
  const key = log ? "logarithmic" : "linear";
  layer.ranges ??= {};
  if (!layer.ranges[key]) {
    const counts = some(layer.counts);
    const used = log ? counts.filter((a) => a > 0) : counts;
    const [low, high] = [log ? quantile(used, 0.02) : 0, quantile(used, 0.9995)];
    layer.ranges[key] = high > low ? [low, high] : [low || (log ? 1 : 0), (low || 1) * 2];
  }
  return layer.ranges[key];
}

function limits() {
  const log = $("log").checked;
  let [low, high] = automatic(state.layers[0], log);
  const given = (id, value) => {
    $(id).placeholder = String(+value.toPrecision(3));
    const text = $(id).value.trim();
    return text && Number.isFinite(+text) && !(log && +text <= 0) ? +text : value;
  };
  [low, high] = [given("low", low), given("high", high)];
  return { low, high: high > low ? high : low * 1.01 + 1e-9, log };
}

// The mean of two colours: the counts below the 3-D mask stay visible.
const mixed = (a, b) => ((((a >>> 1) & 0x7f7f7f7f) + ((b >>> 1) & 0x7f7f7f7f)) | 0xff000000) >>> 0;

function picture(layer, { low, high, log }) {
  const key = [low, high, log, $("map").value, $("hide").checked].join();
  if (layer.key === key) return layer.picture;
  const map = colours($("map").value);
  const [s0, s1, f0, f1] = layer.window;
  const [w, h] = [Math.ceil((f1 - f0) / layer.size), Math.ceil((s1 - s0) / layer.size)];
  const data = new ImageData(w, h);
  const pixels = new Uint32Array(data.data.buffer);
  const scaled = log ? (a) => (a > 0 ? Math.log(a / low) / Math.log(high / low) : 0)
    : (a) => (a - low) / (high - low);
  const hide = $("hide").checked;
  for (let i = 0; i < pixels.length; i++) {
    const value = layer.counts[i];
    if (hide && layer.kind[i] > 1) pixels[i] = KINDS[layer.kind[i]];
    else if (Number.isFinite(value)) pixels[i] = map[Math.max(0, Math.min(255, Math.round(255 * scaled(value))))];
    else pixels[i] = KINDS[3];
    if (hide && layer.kind[i] === 1) pixels[i] = mixed(pixels[i], KINDS[1]);
  }
  const canvas = new OffscreenCanvas(w, h);
  canvas.getContext("2d").putImageData(data, 0, 0);
  layer.key = key;
  layer.picture = { canvas, x: f0, y: s0, w: w * layer.size, h: h * layer.size };
  return layer.picture;
}

function whole() {
  const [n_slow, n_fast] = state.about.shape;
  // Not higher than the frame: a narrow window would be mostly empty.
  $("view").style.maxHeight = `${Math.ceil(($("view").clientWidth * n_slow) / n_fast)}px`;
  const { w, h } = sized($("view"));
  const scale = Math.min(w / n_fast, h / n_slow);
  state.view = { scale, slow: n_slow / 2 - h / scale / 2, fast: n_fast / 2 - w / scale / 2 };
}

function draw() {
  if (!state.layers.length) return;
  if (!state.view) whole();
  const { pen, w, h } = sized($("view"));
  const { scale, slow, fast } = state.view;
  const x = (f) => (f - fast) * scale;
  const y = (s) => (s - slow) * scale;
  const [n_slow, n_fast] = state.about.shape;
  const range = limits();
  const map = colours($("map").value);
  pen.fillStyle = "#eceff2";
  pen.fillRect(0, 0, w, h);
  pen.save();
  pen.beginPath();
  pen.rect(x(0), y(0), n_fast * scale, n_slow * scale);
  pen.clip();
  for (const layer of state.layers) {
    const image = picture(layer, range);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(image.canvas, x(image.x), y(image.y), image.w * scale, image.h * scale);
  }
  if ($("rings").checked) drawRings(pen, x, y, w, h);
  pen.restore();
  drawSpots(pen, x, y, w, h);
  drawBar(range, map);
  tell();
}

function drawRings(pen, x, y, w, h) {
  const [n_slow, n_fast] = state.about.shape;
  for (const { d, slow, fast } of state.about.rings) {
    pen.strokeStyle = inks().ring;
    pen.setLineDash([5, 4]);
    pen.beginPath();
    let last = false;
    const seen = [];
    slow.forEach((s, i) => {
      const f = fast[i];
      if (s === null || f === null) { last = false; return; }
      const at = [x(f), y(s)];
      if (last) pen.lineTo(...at); else pen.moveTo(...at);
      last = true;
      if (s > 0 && s < n_slow && f > 0 && f < n_fast && at[0] > 30 && at[0] < w - 30 && at[1] > 12
        && at[1] < h - 12) seen.push(at);
    });
    pen.stroke();
    pen.setLineDash([]);
    if (!seen.length) continue;
    // Up and to the right, so that the labels stand in a row.
    const [a, b] = seen.reduce((p, q) => (q[0] - q[1] > p[0] - p[1] ? q : p));
    const text = `${d} Å`;
    pen.font = "12px system-ui, Arial, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.fillStyle = "#1b1f24cc";
    pen.fillRect(a - pen.measureText(text).width / 2 - 3, b - 8, pen.measureText(text).width + 6, 16);
    pen.fillStyle = "#fff";
    pen.fillText(text, a, b);
  }
}

function drawSpots(pen, x, y, w, h) {
  const { spots, view } = state;
  const size = Math.max(5, Math.min(14, 3 * view.scale));
  const within = (a, b) => a > -size && a < w + size && b > -size && b < h + size;
  pen.lineWidth = 1.4;
  if ($("predicted").checked) {
    const labels = [];
    pen.strokeStyle = inks().predicted;
    spots.predicted_slow.forEach((s, i) => {
      const [a, b] = [x(spots.predicted_fast[i]), y(s)];
      if (!within(a, b)) return;
      pen.strokeRect(a - 1.3 * size, b - 1.3 * size, 2.6 * size, 2.6 * size);
      labels.push([a, b, "hkl".split("").map((n) => spots[`predicted_${n}`][i]).join(" ")]);
    });
    if (labels.length <= 40) {
      pen.font = "11px system-ui, Arial, sans-serif";
      pen.textAlign = "left";
      pen.textBaseline = "middle";
      for (const [a, b, text] of labels) {
        pen.strokeStyle = "#000000aa";
        pen.lineWidth = 3;
        pen.strokeText(text, a + 1.3 * size + 3, b);
        pen.fillStyle = "#fff";
        pen.fillText(text, a + 1.3 * size + 3, b);
      }
      pen.lineWidth = 1.4;
    }
  }
  if ($("found").checked) {
    spots.found_slow.forEach((s, i) => {
      const [a, b] = [x(spots.found_fast[i]), y(s)];
      if (!within(a, b)) return;
      const flagged = spots.found_flags[i] !== 0;
      pen.strokeStyle = flagged ? inks().flagged : inks().found;
      pen.beginPath();
      if (flagged) {
        const r = 0.6 * size;
        pen.moveTo(a - r, b - r); pen.lineTo(a + r, b + r);
        pen.moveTo(a - r, b + r); pen.lineTo(a + r, b - r);
      } else pen.arc(a, b, 0.75 * size, 0, 2 * Math.PI);
      pen.stroke();
    });
  }
}

function drawBar({ low, high, log }, map) {
  const { pen, w, h } = sized($("bar"));
  pen.clearRect(0, 0, w, h);
  const [left, right] = [10, w - 10];
  for (let i = 0; i < right - left; i++) {
    const colour = map[Math.round((255 * i) / (right - left - 1))];
    pen.fillStyle = `rgb(${colour & 255},${(colour >> 8) & 255},${(colour >> 16) & 255})`;
    pen.fillRect(left + i, 2, 1.5, 12);
  }
  const at = [];
  if (log) {
    for (let p = Math.floor(Math.log10(low)); p <= Math.log10(high); p++) {
      for (const m of Math.log10(high / low) < 2.5 ? [1, 2, 5] : [1]) at.push(m * 10 ** p);
    }
  } else for (let i = 0; i <= 4; i++) at.push(+(low + (i / 4) * (high - low)).toPrecision(2));
  pen.fillStyle = "#5b6570";
  pen.font = "12px system-ui, Arial, sans-serif";
  pen.textBaseline = "top";
  for (const value of at) {
    const share = log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
    if (share < -0.001 || share > 1.001) continue;
    const place = left + share * (right - left);
    pen.fillRect(place, 12, 1, 5);
    pen.textAlign = share < 0.03 ? "left" : share > 0.97 ? "right" : "center";
    pen.fillText(String(+value.toPrecision(3)), place, 18);
  }
}

function tell() {
  const { about, spots, asked } = state;
  const [image] = state.layers;
  const angle = (z) => `${+(about.start + z * about.step).toFixed(4)}°`;
  const { first, n } = asked;
  const what = asked.all ? `${$("how").value} of all ${about.frames} frames`
    : n === 1 ? `frame ${first} of 0 to ${about.frames - 1}, ${about.axis} = ${angle(first)} to ${angle(first + 1)}`
      : `${$("how").value} of frames ${first} to ${first + n - 1}, ${about.axis} = ${angle(first)} to ${angle(first + n)}`;
  const left = asked.all || image.used === n ? "" : ` (${n - image.used} frames have no valid pixel)`;
  const blocks = state.layers.at(-1).size;
  const size = blocks > 1 ? ` One point is the largest count of ${blocks} × ${blocks} pixels.` : "";
  const sign = (colour, mark, text) => {
    const span = document.createElement("span");
    span.className = "sign";
    const dot = Object.assign(document.createElement("i"), { textContent: mark });
    if (mark) { dot.style.color = colour; } else { dot.style.background = colour; dot.className = "swatch"; }
    span.append(dot, ` ${text}`);
    return span;
  };
  const count = (name) => spots[`${name}_slow`].length;
  const flagged = spots.found_flags.filter((a) => a !== 0).length;
  const ink = inks();
  const texts = [`${what}${left}: ${image["sum of counts"].toLocaleString("en")} counts.${size}`];
  const signs = [];
  if ($("found").checked) {
    signs.push(sign(ink.found, "○", `${count("found") - flagged} found peaks`),
      sign(ink.flagged, "×", `${flagged} found peaks with a flag`));
  }
  if ($("predicted").checked) {
    signs.push(spots.refined ? sign(ink.predicted, "□", `${count("predicted")} predicted spots`)
      : "no predicted spots: the scan is not refined yet");
  }
  if ($("hide").checked) {
    signs.push(sign("#d55e00", "", "masked"), sign("#cc79a7", "", "3-D mask"), sign("#b0b0b0", "", "no pixel"));
  }
  $("legend").replaceChildren(texts[0], document.createElement("br"), ...signs.flatMap((a) => [a, " "]));
}

// The smallest blocks under a place.
function blockAt(s, f) {
  for (const layer of [...state.layers].reverse()) {
    const [s0, s1, f0, f1] = layer.window;
    if (s < s0 || s >= s1 || f < f0 || f >= f1) continue;
    const w = Math.ceil((f1 - f0) / layer.size);
    const i = Math.floor((s - s0) / layer.size) * w + Math.floor((f - f0) / layer.size);
    return { count: layer.counts[i], kind: layer.kind[i], size: layer.size };
  }
  return null;
}

const pixelSoon = soon(guarded(async (place) => {
  const { first, n, all } = state.asked;
  const frame = all ? null : first + n / 2;
  const found = await ask("pixel", { id: chosen().id, frame: frame ?? 0, slow: place.s, fast: place.f });
  if (state.over !== place) return;
  const hkl = found.hkl && frame !== null ? `, hkl = ${hklText(found.hkl)}` : "";
  const masked = found.reasons.length ? `; masked: ${found.reasons.join(", ")}` : "";
  const d = found.d === null ? "" : `; d = ${short(found.d)} Å, |Q| = ${short(found.q)} 1/Å, 2θ = ${short(found.two_theta)}°`;
  $("readout").textContent = `${place.text}${d}${hkl}${masked}`;
}), 60);

function hover(a, b) {
  const { view, spots, about } = state;
  if (a === null || !view || !state.layers.length) { $("readout").textContent = ""; state.over = null; return; }
  const [s, f] = [view.slow + b / view.scale, view.fast + a / view.scale];
  const [n_slow, n_fast] = about.shape;
  if (s < 0 || f < 0 || s >= n_slow || f >= n_fast) { $("readout").textContent = ""; state.over = null; return; }
  const block = blockAt(s, f);
  const pixels = block.size > 1 ? ` (largest of ${block.size} × ${block.size} pixels)` : "";
  const count = Number.isFinite(block.count) ? `${short(block.count)} counts${pixels}`
    : block.kind > 1 ? "masked" : "no counts";
  const excluded = block.kind === 1 ? " (excluded by the 3-D mask)" : "";
  let text = `slow ${Math.floor(s)}, fast ${Math.floor(f)}: ${count}${excluded}`;
  let [near, least] = [-1, 8];
  spots.found_slow.forEach((slow, i) => {
    const away = Math.hypot(slow - s, spots.found_fast[i] - f) * view.scale;
    if (away < least) [near, least] = [i, away];
  });
  if (near >= 0 && $("found").checked) {
    text += `; peak of ${short(spots.found_intensity[near], spots.found_sigma[near])} counts at frame ${spots.found_frame[near].toFixed(2)}`;
  }
  state.over = { s: Math.floor(s) + 0.5, f: Math.floor(f) + 0.5, text };
  $("readout").textContent = text;
  pixelSoon(state.over);
}

moving($("view"), {
  drag(dx, dy) {
    if (!state.view) return;
    state.view.fast -= dx / state.view.scale;
    state.view.slow -= dy / state.view.scale;
    draw();
    closerSoon();
  },
  wheel(a, b, factor) {
    const { view } = state;
    if (!view) return;
    const scale = Math.max(0.02, Math.min(60, view.scale * factor));
    view.fast += a / view.scale - a / scale;
    view.slow += b / view.scale - b / scale;
    view.scale = scale;
    draw();
    closerSoon();
  },
  hover,
  reset() { whole(); draw(); closerSoon(); },
});
$("view").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
  if (!step || $("all").checked) return;
  event.preventDefault();
  $("first").value = +$("first").value + step * +$("n").value;
  loadSoon();
});

const loaded = guarded(load);
const loadSoon = soon(loaded, 60);
const redraw = () => draw();
const reopened = guarded(async () => {
  const item = chosen();
  choose({ sample: $("sample").value, scan: $("scan").value, rotation: item?.name ?? $("rotation").value });
  await open();
});
for (const id of ["sample", "scan", "rotation"]) $(id).addEventListener("change", reopened);
$("slider").addEventListener("input", () => { $("first").value = $("slider").value; loadSoon(); });
for (const id of ["first", "n", "how", "all", "hide", "within"]) $(id).addEventListener("change", loaded);
for (const id of ["log", "low", "high", "map", "rings", "found", "predicted"]) $(id).addEventListener("change", redraw);
for (const id of ["what", "look"]) $(id).addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("resize", soon(() => { if (state.about) { whole(); draw(); } }, 100));
fill($("map"), Object.keys(MAPS).map((a) => [a, a]), "viridis");

guarded(async () => {
  const found = await ask("list", {});
  state.rotations = found.rotations;
  entitle(found, "frames");
  const wanted = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  choose(wanted);
  $("first").max = 1e9;
  $("n").max = 1e9;
  $("first").value = wanted.first ?? 0;
  $("n").value = wanted.n ?? 1;
  await open();
})();
