"use strict";
// Found peaks in reciprocal space, with the lattice, as points that turn with the mouse. The
// directions are those of the goniometer's frame; the picture has no perspective, so that rows of
// peaks stay rows.

const state = { rotations: [], parts: [], points: [], turn: null, scale: 1, shift: [0, 0] };
const OF_ROTATION = ["#0b5394", "#d55e00", "#2e7d32", "#8e24aa", "#00838f", "#ad1457", "#5d4037", "#827717"];
const INDEXED = "#0b5394";
const OTHER = "#d55e00";
const LETTERS = ["a*", "b*", "c*"];

const ofScan = () => state.rotations.filter((a) => a.sample === $("sample").value && a.scan === $("scan").value);

function choose(wanted) {
  fill($("sample"), [...new Set(state.rotations.map((a) => a.sample))].map((a) => [a, a]), wanted.sample);
  const ofSample = state.rotations.filter((a) => a.sample === $("sample").value);
  fill($("scan"), scansOf(ofSample), wanted.scan);
  fill($("rotation"), [["", "all"], ...ofScan().map((a) => [a.name, a.label])], wanted.rotation);
}

async function open() {
  const items = ofScan().filter((a) => !$("rotation").value || a.name === $("rotation").value);
  if (!items.length) throw new Error("this experiment has no imported rotation yet; run snakemake");
  state.parts = await Promise.all(items.map(async (item) => ({ item, found: await ask("peaks", { id: item.id }) })));
  history.replaceState(null, "", `#${new URLSearchParams({ sample: items[0].sample, scan: items[0].scan,
    rotation: $("rotation").value })}`);
  const [{ found }] = state.parts;
  state.lattice = found.refined ? found : null;
  if (!$("tolerance").value) $("tolerance").value = found.tolerance;
  for (const id of ["fold", "grid"]) $(id).disabled = !state.lattice;
  $("along").hidden = !state.lattice;
  if (!state.lattice) $("fold").checked = false;
  const text = state.lattice
    ? `Cell: ${["a", "b", "c", "α", "β", "γ"].map((n, i) => `${n} = ${withError(found.cell[i], found.cell_sigma[i])}${i < 3 ? " Å" : "°"}`).join(", ")}; ${found.space_group}.`
    : "The scan is not refined yet: no lattice, and the geometry is that of the import.";
  $("cell").textContent = text;
  select();
  if (!state.turn) {
    if (state.lattice) look(2);
    whole();
  }
  draw();
}

// 5.4321(12): the error in units of the last digit.
function withError(value, sigma) {
  if (!(sigma > 0)) return String(+value.toFixed(4));
  const digits = Math.max(0, Math.min(6, 1 - Math.floor(Math.log10(sigma))));
  return `${value.toFixed(digits)}(${Math.round(sigma * 10 ** digits)})`;
}

const vector = (ub, hkl) => [0, 1, 2].map((i) => ub[i][0] * hkl[0] + ub[i][1] * hkl[1] + ub[i][2] * hkl[2]);
const norm = (a) => Math.hypot(...a);
const unit = (a) => a.map((x) => x / norm(a));
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const inner = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];

function select() {
  $("readout").textContent = "";
  const tolerance = +$("tolerance").value;
  const fold = $("fold").checked;
  state.points = [];
  state.count = { indexed: 0, other: 0, flagged: 0 };
  state.parts.forEach(({ item, found }, rotation) => {
    for (let i = 0; i < found.frame.length; i++) {
      if (found.flags[i] !== 0 && !$("doubtful").checked) { state.count.flagged += 1; continue; }
      const hkl = [found.h[i], found.k[i], found.l[i]];
      const indexed = Math.max(...hkl.map((a) => Math.abs(a - Math.round(a)))) < tolerance;
      state.count[indexed ? "indexed" : "other"] += 1;
      if ($("which").value && $("which").value !== (indexed ? "1" : "0")) continue;
      // Parts of hkl from -0.5 to 0.5: an indexed peak is near the middle of the cell.
      const place = fold ? vector(state.lattice.ub, hkl.map((a) => a - Math.round(a))) : [found.qx[i], found.qy[i], found.qz[i]];
      state.points.push({ place, hkl, indexed, rotation, item, i, found });
    }
  });
  const inside = state.points.map((a) => found(a, "intensity")).sort((a, b) => a - b);
  state.range = [inside[Math.floor(0.02 * inside.length)] || 1, inside[Math.floor(0.98 * inside.length)] || 10];
}
const found = (point, name) => point.found[name][point.i];

function reach() {
  if ($("fold").checked) {
    const corners = [[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]];
    return Math.max(...corners.map((a) => norm(vector(state.lattice.ub, a)) / 2));
  }
  return Math.max(...(state.points.length ? state.points.map((a) => norm(a.place)) : [1]));
}

function whole() {
  $("view").style.maxHeight = `${$("view").clientWidth}px`;
  const { w, h } = sized($("view"));
  state.turn ??= [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
  state.shift = [0, 0];
  state.scale = (0.43 * Math.min(w, h)) / reach();
}

// Rows: right, up, towards the eye.
function look(axis) {
  const { ub } = state.lattice;
  const axes = [0, 1, 2].map((n) => vector(ub, [0, 1, 2].map((m) => (m === n ? 1 : 0))));
  const eye = unit(axes[axis]);
  const right = axes[(axis + 1) % 3];
  const across = unit(right.map((x, i) => x - inner(right, eye) * eye[i]));
  state.turn = [across, cross(eye, across), eye];
}

function rotate(dx, dy) {
  const about = (first, second, angle) => {
    const [c, s] = [Math.cos(angle), Math.sin(angle)];
    const [a, b] = [state.turn[first], state.turn[second]];
    state.turn[first] = a.map((x, i) => c * x + s * b[i]);
    state.turn[second] = b.map((x, i) => c * x - s * a[i]);
  };
  about(2, 0, dx / 150);
  about(2, 1, -dy / 150);
}

function draw() {
  const { pen, w, h } = sized($("view"));
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, w, h);
  const { turn, scale, shift } = state;
  const at = (place) => [w / 2 + shift[0] + scale * inner(turn[0], place), h / 2 + shift[1] - scale * inner(turn[1], place),
    inner(turn[2], place)];
  if (state.lattice && $("grid").checked) drawLattice(pen, at);
  const depth = reach();
  const map = MAPS.viridis;
  const drawn = state.points.map((point) => ({ point, place: at(point.place) }));
  drawn.sort((a, b) => a.place[2] - b.place[2]);
  const [low, high] = state.range.map(Math.log);
  for (const { point, place } of drawn) {
    const near = 0.5 + 0.5 * (place[2] / depth);
    pen.globalAlpha = 0.35 + 0.65 * Math.max(0, Math.min(1, near));
    const strength = (Math.log(Math.max(found(point, "intensity"), 1e-9)) - low) / (high - low || 1);
    pen.fillStyle = $("colour").value === "rotation" ? OF_ROTATION[point.rotation % OF_ROTATION.length]
      : $("colour").value === "intensity" ? map[Math.max(0, Math.min(8, Math.round(8 * strength)))]
        : point.indexed ? INDEXED : OTHER;
    const r = 1.4 + 1.6 * Math.max(0, Math.min(1, near));
    if (drawn.length > 20000) {  // squares are several times faster
      pen.fillRect(place[0] - r, place[1] - r, 2 * r, 2 * r);
      continue;
    }
    pen.beginPath();
    pen.arc(place[0], place[1], r, 0, 2 * Math.PI);
    pen.fill();
  }
  pen.globalAlpha = 1;
  state.drawn = drawn;
  tell();
}

function drawLattice(pen, at) {
  const { ub } = state.lattice;
  const line = (from, to) => {
    const [a, b] = [at(from), at(to)];
    pen.beginPath();
    pen.moveTo(a[0], a[1]);
    pen.lineTo(b[0], b[1]);
    pen.stroke();
  };
  pen.lineWidth = 1;
  pen.strokeStyle = "#c3cad2";
  const folded = $("fold").checked;
  const corner = folded ? -0.5 : 0;
  for (const axis of [0, 1, 2]) {
    for (const [i, j] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
      const hkl = [0, 0, 0];
      hkl[(axis + 1) % 3] = i + corner;
      hkl[(axis + 2) % 3] = j + corner;
      hkl[axis] = corner;
      const from = vector(ub, hkl);
      hkl[axis] += 1;
      line(from, vector(ub, hkl));
    }
  }
  // Axes to the edge of the peaks, with a stroke at each whole index.
  const far = folded ? 0 : reach();
  pen.font = "13px system-ui, Arial, sans-serif";
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  for (const axis of [0, 1, 2]) {
    const star = vector(ub, [0, 1, 2].map((m) => (m === axis ? 1 : 0)));
    const n = folded ? 0.5 : Math.max(1, Math.ceil(far / norm(star)));
    pen.strokeStyle = "#5b6570";
    line([0, 0, 0], star.map((x) => x * n));
    pen.fillStyle = "#5b6570";
    for (let m = 1; m <= n; m++) {
      const [x, y] = at(star.map((a) => a * m));
      pen.fillRect(x - 1.5, y - 1.5, 3, 3);
    }
    const [x, y] = at(star.map((a) => a * (n + 0.25 * Math.max(1, n / 8))));
    pen.fillStyle = "#1b1f24";
    pen.fillText(LETTERS[axis], x, y);
  }
}

function tell() {
  const { count } = state;
  const left = $("doubtful").checked ? "" : ` ${count.flagged} peaks with a flag are left out.`;
  const sign = (colour, text) => {
    const span = Object.assign(document.createElement("span"), { className: "sign" });
    const dot = Object.assign(document.createElement("i"), { textContent: "●" });
    dot.style.color = colour;
    span.append(dot, ` ${text}`);
    return span;
  };
  const signs = $("colour").value === "rotation"
    ? state.parts.map(({ item }, i) => sign(OF_ROTATION[i % OF_ROTATION.length], item.label))
    : $("colour").value === "intensity"
      ? [sign(MAPS.viridis[0], `${short(state.range[0])} counts`), sign(MAPS.viridis[8], `${short(state.range[1])} counts`)]
      : [sign(INDEXED, `${count.indexed} indexed`), sign(OTHER, `${count.other} not indexed`)];
  $("legend").replaceChildren(...signs.flatMap((a) => [a, " "]), `${state.points.length} of ${count.indexed + count.other} peaks are drawn.${left}`);
}

function nearest(x, y) {
  let [best, least] = [null, 8];
  for (const { point, place } of state.drawn ?? []) {
    const away = Math.hypot(place[0] - x, place[1] - y);
    if (away <= least) [best, least] = [point, away];  // the last one is in front
  }
  return best;
}

function hover(x, y) {
  const point = x === null ? null : nearest(x, y);
  $("view").style.cursor = point ? "pointer" : "grab";
  if (!point) { $("readout").textContent = ""; return; }
  const q = Math.hypot(...["qx", "qy", "qz"].map((n) => found(point, n)));
  const hkl = state.lattice ? `hkl = ${hklText(point.hkl)}; ` : "";
  $("readout").textContent = `${hkl}d = ${short((2 * Math.PI) / q)} Å, ${short(found(point, "intensity"), found(point, "sigma"))} counts, `
    + `${point.item.label}, frame ${found(point, "frame").toFixed(2)}, slow ${found(point, "slow").toFixed(1)}, fast ${found(point, "fast").toFixed(1)}`;
}

moving($("view"), {
  drag(dx, dy, event) {
    if (event.shiftKey) state.shift = [state.shift[0] + dx, state.shift[1] + dy];
    else rotate(dx, dy);
    draw();
  },
  wheel(x, y, factor) {
    const { w, h } = sized($("view"));
    const before = state.scale;
    state.scale *= factor;
    const grown = state.scale / before - 1;
    state.shift = [state.shift[0] - (x - w / 2 - state.shift[0]) * grown, state.shift[1] - (y - h / 2 - state.shift[1]) * grown];
    draw();
  },
  click(x, y) {
    const point = nearest(x, y);
    if (!point) return;
    const { sample, scan, name } = point.item;
    const first = Math.max(0, Math.floor(found(point, "frame") - 1e-9));
    location.href = `frames#${new URLSearchParams({ sample, scan, rotation: name, first, n: 1 })}`;
  },
  hover,
});

const again = guarded(() => { select(); draw(); });
const reopened = guarded(async () => {
  choose({ sample: $("sample").value, scan: $("scan").value, rotation: $("rotation").value });
  await open();
});
for (const id of ["sample", "scan", "rotation"]) $(id).addEventListener("change", reopened);
for (const id of ["tolerance", "which", "doubtful", "grid", "colour"]) $(id).addEventListener("change", again);
$("fold").addEventListener("change", guarded(() => { select(); whole(); draw(); }));
$("whole").addEventListener("click", guarded(() => { whole(); draw(); }));
for (const button of document.querySelectorAll("#along button")) {
  button.addEventListener("click", guarded(() => { look(+button.dataset.axis); draw(); }));
}
for (const id of ["what", "look"]) $(id).addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("resize", soon(() => { if (state.turn) draw(); }, 100));

guarded(async () => {
  const listed = await ask("list", {});
  state.rotations = listed.rotations;
  entitle(listed, "peaks and lattice");
  choose(Object.fromEntries(new URLSearchParams(location.hash.slice(1))));
  await open();
})();
