"use strict";
// Draw planes and lines. No number is changed: only the place of a pixel and its colour are
// calculated here.

function dot(a, metric, b) {
  let sum = 0;
  for (let i = 0; i < 3; i++) for (let j = 0; j < 3; j++) sum += a[i] * metric[i][j] * b[j];
  return sum;
}

// Rows of pixels with the true angle of the plane: each pixel has the index of its voxel, or -1.
function layout(cut, metric) {
  const { first, second } = cut.vectors;
  const [lu, lv] = [first, second].map((a) => Math.sqrt(dot(a, metric, a)));
  let cos = dot(first, metric, second) / (lu * lv);
  if (Math.abs(cos) < 1e-6) cos = 0;
  const sin = Math.sqrt(1 - cos * cos);
  const [u, v] = [cut[cut.first], cut[cut.second]];
  const place = (a, b) => [a * lu + b * lv * cos, b * lv * sin];
  const y = Array.from(v, (b) => b * lv * sin);
  const n = u.length;
  const step = n > 1 ? u[1] - u[0] : 1;
  if (cos === 0) {
    const rows = y.map((_, j) => new Int32Array(n).map((_, i) => j * n + i));
    return { x: Array.from(u, (a) => a * lu), y, rows, place, cos };
  }
  const fine = n > 600 ? 1 : 2;
  const shifts = [v[0], v[v.length - 1]].map((b) => b * lv * cos);
  const dx = (step * lu) / fine;
  const from = u[0] * lu + Math.min(...shifts);
  const count = Math.round((u[n - 1] * lu + Math.max(...shifts) - from) / dx) + 1;
  const x = Array.from({ length: count }, (_, i) => from + i * dx);
  const rows = Array.from(v, (b, j) => Int32Array.from(x, (at) => {
    const i = Math.round(((at - b * lv * cos) / lu - u[0]) / step);
    return i >= 0 && i < n ? j * n + i : -1;
  }));
  return { x, y, rows, place, cos };
}

function limitsOf(all, log, signed) {
  const values = some(all);
  const used = log ? values.filter((a) => a > 0) : values;
  let [low, high] = [quantile(used, 0.02), quantile(used, 0.995)];
  if (signed && !log) { high = quantile(values.map(Math.abs), 0.99); low = -high; }
  return high > low ? [low, high] : [low, low + (Math.abs(low) || 1)];
}

const PLAIN = {
  margin: { l: 60, r: 10, t: 10, b: 45 }, hovermode: "closest", dragmode: "zoom",
  font: { family: "system-ui, Arial, sans-serif", size: 13, color: "#1b1f24" },
  paper_bgcolor: "#fff", plot_bgcolor: "#eceff2",
};
const CONFIG = { responsive: true, displaylogo: false, scrollZoom: true,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

function ticksOf(values, scale) {
  const [a, b] = [values[0], values[values.length - 1]];
  const wanted = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20].find((d) => (b - a) / d <= 9) ?? 50;
  const at = [];
  for (let t = Math.ceil(a / wanted - 1e-9); t * wanted <= b + 1e-9; t++) at.push(+(t * wanted).toFixed(6));
  return { tickvals: at.map((t) => t * scale), ticktext: at.map(String), at };
}

function drawPlane(element, cut, volume, values, choice) {
  const map = layout(cut, volume.metric);
  const { log, limits, signed, label } = choice;
  const z = map.rows.map((row) => {
    const shown = new Float64Array(row.length);
    for (let n = 0; n < row.length; n++) {
      const value = row[n] < 0 ? NaN : values[row[n]];
      shown[n] = log ? (value > 0 ? Math.log10(value) : NaN) : value;
    }
    return shown;
  });
  const [zmin, zmax] = log ? limits.map((a) => Math.log10(a)) : limits;
  const narrow = element.clientWidth < 480;
  const bar = narrow
    ? { thickness: 10, outlinewidth: 0, orientation: "h", y: -0.25, yanchor: "top", xpad: 0 }
    : { title: { text: label, side: "right" }, thickness: 14, outlinewidth: 0 };
  if (log) {
    const at = [];
    for (let p = Math.floor(zmin); p <= Math.ceil(zmax); p++) {
      for (const m of zmax - zmin < 2.5 ? [1, 2, 5] : [1]) at.push(m * 10 ** p);
    }
    bar.tickvals = at.map((a) => Math.log10(a));
    bar.ticktext = at.map((a) => String(+a.toPrecision(3)));
  }
  const [u, v] = [cut[cut.first], cut[cut.second]];
  const [ends, shapes, annotations] = [[u, v].map((a) => [a[0], a[a.length - 1]]), [], []];
  const [tu, tv] = [ticksOf(u, 1), ticksOf(v, 1)];
  const line = { color: signed && !log ? "#00000022" : "#ffffff55", width: 1 };
  const mark = (a, b, text, where) => {
    const [x, y] = map.place(a, b);
    annotations.push({ x, y, text, showarrow: false, font: { size: 12 }, ...where });
  };
  const bare = { showgrid: false, zeroline: false, ticks: "" };
  const axes = { xaxis: { ...bare, constrain: "domain", showticklabels: false, title: { text: cut.first } },
    yaxis: { ...bare, scaleanchor: "x", constrain: "domain", showticklabels: false, title: { text: cut.second } } };
  if (map.cos === 0) {
    for (const [axis, values_, i] of [["xaxis", u, 0], ["yaxis", v, 1]]) {
      const { tickvals, ticktext } = ticksOf(values_, map.place(1, 1)[i]);
      Object.assign(axes[axis], { tickvals, ticktext, showticklabels: true, ticks: "outside" });
    }
  } else {
    const add = (one, two) => shapes.push({ type: "line", line, x0: one[0], y0: one[1], x1: two[0], y1: two[1] });
    for (const a of tu.at) {
      add(map.place(a, ends[1][0]), map.place(a, ends[1][1]));
      mark(a, ends[1][0], String(a), { yanchor: "top", yshift: -2 });
    }
    for (const b of tv.at) {
      add(map.place(ends[0][0], b), map.place(ends[0][1], b));
      mark(ends[0][0], b, String(b), { xanchor: "right", xshift: -4 });
    }
  }
  const trace = { type: "heatmap", x: map.x, y: map.y, z, zmin, zmax, hoverinfo: "none",
    colorscale: signed && !log ? "RdBu" : "Viridis", reversescale: false, colorbar: bar };
  if (signed && !log) trace.colorscale = [[0, "#2166ac"], [0.5, "#f7f7f7"], [1, "#b2182b"]];
  const background = map.cos === 0 ? {} : { plot_bgcolor: "#fff" };
  const [wide, high] = [map.x, map.y].map((a) => Math.abs(a[a.length - 1] - a[0]) || 1);
  const height = ((element.clientWidth - (narrow ? 60 : 150)) * high) / wide + (narrow ? 130 : 55);
  element.style.height = `${Math.max(240, Math.min(height, 0.7 * window.innerHeight))}px`;
  const margin = narrow ? { margin: { l: 40, r: 5, t: 10, b: 100 } } : {};
  Plotly.react(element, [trace], { ...PLAIN, ...margin, ...background, ...axes, shapes, annotations,
    uirevision: cut.plane }, CONFIG);
  return map;
}

function drawLines(element, cuts, log, letters, unit, quantity) {
  const colours = ["#0b5394", "#b2182b"];
  const traces = cuts.map(({ cut, name }, i) => ({
    type: "scatter", mode: "lines+markers", name, x: Array.from(cut.distance), y: Array.from(cut.S),
    error_y: { type: "data", array: Array.from(cut.sigma, (s) => (Number.isFinite(s) ? s : 0)),
      thickness: 1, width: 2 },
    line: { color: colours[i], width: 1 }, marker: { size: 4, color: colours[i] },
    text: Array.from(cut.S, (s, n) =>
      `${letters.map((a) => `${a} = ${+cut[a][n].toFixed(4)}`).join(", ")}<br>${quantity} = ${short(s, cut.sigma[n])}`),
    hoverinfo: "text",
  }));
  Plotly.react(element, traces, { ...PLAIN, plot_bgcolor: "#fff", showlegend: cuts.length > 1,
    legend: { x: 0, y: 1.02, yanchor: "bottom", orientation: "h" }, margin: { ...PLAIN.margin, t: 30 },
    xaxis: { title: { text: `distance along the line (${unit})` }, gridcolor: "#dfe3e8", zeroline: false },
    yaxis: { title: { text: quantity }, type: log ? "log" : "linear", gridcolor: "#dfe3e8",
      zerolinecolor: "#aab2bb" } }, CONFIG);
}
