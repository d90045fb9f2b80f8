"use strict";
// Ask the server; what all pages share.

const $ = (id) => document.getElementById(id);

async function ask(what, query, signal) {
  const answer = await fetch(`${what}?${new URLSearchParams(query)}`, { signal });
  const bytes = await answer.arrayBuffer();
  if (!answer.ok) {
    const text = new TextDecoder().decode(bytes);
    let message = text;
    try { message = JSON.parse(text).error; } catch { /* no JSON */ }
    throw new Error(message);
  }
  const all = new Uint8Array(bytes);
  const cut = all.indexOf(10);
  const head = JSON.parse(new TextDecoder().decode(cut < 0 ? all : all.subarray(0, cut)));
  let at = cut + 1;
  for (const { name, type, shape } of head.arrays ?? []) {
    const [Type, size] = type === "f8" ? [Float64Array, 8] : [Float32Array, 4];
    const n = shape.reduce((a, b) => a * b, 1);
    head[name] = new Type(bytes.slice(at, at + n * size));
    at += n * size;
  }
  return head;
}

// Rounded for reading; the whole number is in the answer, and in the title of a table's cell.
function short(value, sigma) {
  const digits = (a, n) => String(+a.toPrecision(n));
  if (sigma === undefined) return digits(value, 6);
  return `${digits(value, 6)} ${Number.isFinite(sigma) ? `± ${digits(sigma, 3)}` : "(σ not known)"}`;
}

// Miller indices to three places; zero has no sign.
const hklText = (hkl) => hkl.map((a) => (+a.toFixed(3)).toFixed(3)).join(", ");

// At most some 200 000 values, not in a regular order: percentiles of them are exact enough for
// colours, and sorting a million takes too long.
function some(values) {
  const step = Math.ceil(values.length / 200000);
  return step < 2 ? values : values.filter((_, i) => (Math.imul(i, 0x9e3779b1) >>> 16) % step === 0);
}

function quantile(values, share) {
  const known = values.filter(Number.isFinite).sort();  // typed arrays sort by number
  return known.length ? known[Math.min(known.length - 1, Math.floor(share * known.length))] : NaN;
}

function fill(select, pairs, wanted) {
  select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
  if (pairs.some(([value]) => value === wanted)) select.value = wanted;
}

function report(error) {
  if (error?.name === "AbortError") return;
  $("message").hidden = !error;
  $("message").textContent = error ? error.message : "";
}

const guarded = (action) => async (event) => {
  event?.preventDefault?.();
  try { report(null); await action(event); } catch (error) { report(error); }
};

const named = (item) => (item.temperature === null || item.scan === `${item.temperature}K`
  ? item.scan : `${item.scan} (${item.temperature} K)`);
function scansOf(items) {
  return [...new Map(items.map((item) => [item.scan, named(item)]))];
}

function entitle(found, what) {
  $("title").textContent = document.title = `${found.experiment}: ${what}`;
}

// Run an action soon; an action that is asked for again meanwhile runs once.
function soon(action, delay) {
  let waiting = 0;
  return (...given) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => action(...given), delay);
  };
}
