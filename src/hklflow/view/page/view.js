"use strict";
// State of the page: chosen volumes, plane and cuts.

const state = { volumes: [], shown: [], facts: null, clicks: [], running: null };

const ofSample = () => state.volumes.filter((item) => item.sample === $("sample").value);

function choose(wanted = {}) {
  fill($("sample"), [...new Set(state.volumes.map((a) => a.sample))].map((a) => [a, a]), wanted.sample);
  fill($("scan"), scansOf(ofSample()), wanted.scan);
  const here = ofSample().filter((item) => item.scan === $("scan").value);
  const first = here.find((a) => a.name.startsWith("symm_")) ?? here[0];
  const kept = here.some((a) => a.name === wanted.name) ? wanted.name : first?.name;
  fill($("volume"), here.map((item) => [item.name, item.label]), kept);
  const others = ofSample().filter((a) => a.name === $("volume").value && a.scan !== $("scan").value);
  fill($("other"), [["", "nothing"], ...scansOf(others)], wanted.other);
}

const chosen = () => ({ sample: $("sample").value, scan: $("scan").value, name: $("volume").value,
  other: $("other").value });

function templates([a, b, c]) {
  const signed = (t) => (t < 0 ? `${t}` : `+${t}`);
  return {
    [`${a}${b}`]: { letter: c, of: c, text: (t) => `${a} ${b} ${t}` },
    [`${a}${c}`]: { letter: b, of: b, text: (t) => `${a} ${t} ${c}` },
    [`${b}${c}`]: { letter: a, of: a, text: (t) => `${t} ${b} ${c}` },
    [`${a}${a}${c}`]: { letter: "t", of: a, text: (t) => `${a}${signed(t)} ${a}${signed(-t)} ${c}` },
  };
}

async function open() {
  const choice = chosen();
  const find = (scan) => state.volumes.find(
    (a) => a.sample === choice.sample && a.scan === scan && a.name === choice.name);
  state.shown = [choice.scan, choice.other].filter(Boolean).map(find).filter(Boolean);
  if (!state.shown.length) throw new Error("this experiment has no volumes yet; run snakemake");
  const facts = await ask("volume", { id: state.shown[0].id });
  const before = state.facts;
  state.facts = facts;
  const [a, b, c] = facts.names;
  const kinds = [...Object.keys(templates(facts.names)), "other"];
  if (before?.names.join() !== facts.names.join()) {
    const labels = [`${a} ${b} ·`, `${a} · ${c}`, `· ${b} ${c}`, `${a}+t ${a}−t ${c}`, "other…"];
    fill($("kind"), kinds.map((kind, i) => [kind, labels[i]]), $("kind").value);
    $("position").value = 0;
    $("text").value = `${a} ${a} ${c}`;
    $("ranges").replaceChildren(...facts.names.map((name) => {
      const label = document.createElement("label");
      const input = Object.assign(document.createElement("input"),
        { id: `range-${name}`, size: 12, placeholder: "-0.1, 0.1" });
      label.append(`${name} `, input);
      return label;
    }));
    $("start").value = $("end").value = "";
    $("line").hidden = $("boxtable").hidden = true;
    $("lineabout").textContent = $("boxabout").textContent = "";
  }
  if (before?.kind !== facts.kind) {
    $("log").checked = !signedKind(facts.kind);
    $("low").value = $("high").value = "";
    $("diameter").value = (4 * facts.edge).toPrecision(2);
  }
  document.querySelectorAll(".unit").forEach((e) => { e.textContent = facts.unit; });
  $("second").hidden = state.shown.length < 2;
  const url = new URLSearchParams(choice);
  history.replaceState(null, "", `#${url}`);
  slide();
  await plane();
  // Cuts that are shown are of the chosen volumes.
  if (!$("line").hidden) await line();
  if (!$("boxtable").hidden) await box();
}

const quantity = () => (state.facts.names[0] === "x" ? "PDF" : "S");
const signedKind = (kind) => !["transform", "merged", "symmetrised", "filled"].includes(kind);

function slide() {
  const kind = templates(state.facts.names)[$("kind").value];
  $("own").hidden = Boolean(kind);
  $("sliding").hidden = !kind;
  if (!kind) return;
  $("letter").textContent = kind.letter;
  const [low, high] = state.facts.ends[kind.of];
  const step = state.facts.step[kind.of];
  const tidy = (a) => +a.toFixed(6);
  for (const input of [$("slider"), $("position")]) {
    Object.assign(input, { min: tidy(low), max: tidy(high), step: input.type === "range" ? tidy(step) : "any" });
  }
  const value = Math.min(Math.max(+$("position").value || 0, low), high);
  $("position").value = $("slider").value = tidy(value);
}

function planeText() {
  const kind = templates(state.facts.names)[$("kind").value];
  return kind ? kind.text(+(+$("position").value).toFixed(6)) : $("text").value;
}

async function plane() {
  state.running?.abort();
  const { signal } = (state.running = new AbortController());
  const query = { plane: planeText(), width: $("width").value || "0" };
  const shown = state.shown;
  const cuts = await Promise.all(shown.map(async (item) => [
    await ask("plane", { id: item.id, ...query }, signal), await ask("volume", { id: item.id }, signal)]));
  if (signal.aborted) return;
  const what = $("sigma").checked ? "sigma" : "S";
  const values = cuts.map(([cut]) => cut[what]);
  const signed = signedKind(cuts[0][1].kind) && what === "S";
  const log = $("log").checked;
  const limits = limitsOf(values[0], log, signed);
  for (const [i, id] of ["low", "high"].entries()) {
    const given = $(id).value.trim();
    if (given && Number.isFinite(+given) && !(log && +given <= 0)) limits[i] = +given;
    $(id).placeholder = limits[i].toPrecision(3);
  }
  cuts.forEach(([cut, volume], i) => {
    $(`name${i}`).textContent = `${shown[i].sample} ${named(shown[i])}: ${shown[i].label}, ${cut.plane}`;
    const element = $(`plane${i}`);
    const label = what === "S" ? quantity() : "σ";
    const map = drawPlane(element, cut, volume, values[i], { log, limits, signed, label });
    listen(element, i, cut, map);
  });
}

function hklOf(cut, map, point) {
  const [row, column] = point.pointNumber ?? point.pointIndex;
  const index = map.rows[row][column];
  if (index < 0) return null;
  const n = cut[cut.first].length;
  const { origin, first, second } = cut.vectors;
  const [a, b] = [cut[cut.first][index % n], cut[cut.second][Math.floor(index / n)]];
  return { index, hkl: origin.map((o, i) => +(o + a * first[i] + b * second[i]).toFixed(5)) };
}

function listen(element, i, cut, map) {
  element.removeAllListeners?.("plotly_hover");
  element.removeAllListeners?.("plotly_click");
  element.on("plotly_hover", (event) => {
    const found = hklOf(cut, map, event.points[0]);
    if (!found) return;
    const place = state.facts.names.map((name, n) => `${name} = ${found.hkl[n]}`).join(", ");
    const value = cut.S[found.index];
    $(`readout${i}`).textContent = Number.isFinite(value)
      ? `${place}: ${quantity()} = ${short(value, cut.sigma[found.index])}` : `${place}: not measured`;
  });
  element.on("plotly_click", guarded(async (event) => {
    const found = hklOf(cut, map, event.points[0]);
    if (!found) return;
    const second = state.clicks.length % 2 === 1;
    state.clicks.push(found.hkl);
    $(second ? "end" : "start").value = found.hkl.join(", ");
    if (second) await line();
    else $("end").value = "";
  }));
}

async function line() {
  const query = { start: $("start").value, end: $("end").value, width: $("diameter").value };
  if (!query.start || !query.end) throw new Error("give both ends of the line, or click two points of the plane");
  const cuts = await Promise.all(state.shown.map(async (item) => (
    { name: named(item), cut: await ask("line", { id: item.id, ...query }) })));
  $("line").hidden = false;
  drawLines($("line"), cuts, $("linelog").checked, state.facts.names, state.facts.unit, quantity());
  $("lineabout").textContent = `${cuts[0].cut.estimand}. Errors: ${cuts[0].cut.errors}.`;
}

async function box() {
  const query = {};
  for (const name of state.facts.names) {
    const given = $(`range-${name}`).value.trim();
    if (given) query[name] = given;
  }
  const cuts = await Promise.all(state.shown.map(async (item) => (
    [item, await ask("box", { id: item.id, ...query })])));
  const row = (tag, texts) => {
    const tr = document.createElement("tr");
    tr.append(...texts.map((text) => Object.assign(document.createElement(tag), typeof text === "number"
      ? { textContent: Number.isFinite(text) ? short(text) : "not known", title: String(text) } : { textContent: text })));
    return tr;
  };
  const names = cuts[0][1].arrays.map((a) => a.name);
  const titles = { sigma: "σ", measured: "measured share", filled: "filled share",
    sigma_background: "σ of the background's level (common)" };
  $("boxtable").hidden = false;
  $("boxtable").tHead.replaceChildren(row("th", ["scan", ...names.map((a) => (a === "S" ? quantity() : titles[a] ?? a))]));
  $("boxtable").tBodies[0].replaceChildren(...cuts.map(([item, cut]) => (
    row("td", [named(item), ...names.map((a) => cut[a][0])]))));
  $("boxabout").textContent = `${cuts[0][1].estimand}. Errors: ${cuts[0][1].errors}.`;
}

const start = guarded(async () => {
  const found = await ask("list", {});
  state.volumes = found.volumes;
  entitle(found, "volumes");
  choose(Object.fromEntries(new URLSearchParams(location.hash.slice(1))));
  await open();
});

const reopened = guarded(async () => { choose(chosen()); await open(); });
for (const id of ["sample", "scan", "volume", "other"]) $(id).addEventListener("change", reopened);
const again = guarded(plane);
let waiting = 0;
$("slider").addEventListener("input", () => {
  $("position").value = $("slider").value;
  clearTimeout(waiting);
  waiting = setTimeout(again, 80);
});
$("kind").addEventListener("change", guarded(async () => { $("position").value = 0; slide(); await plane(); }));
$("position").addEventListener("change", () => { $("slider").value = $("position").value; again(); });
for (const id of ["text", "width", "log", "low", "high", "sigma"]) $(id).addEventListener("change", again);
$("linelog").addEventListener("change", guarded(async () => { if (!$("line").hidden) await line(); }));
$("lineform").addEventListener("submit", guarded(line));
$("boxform").addEventListener("submit", guarded(box));
for (const id of ["what", "how"]) $(id).addEventListener("submit", (event) => event.preventDefault());
start();
