"""Style sheet of the pages, for the screen and for printing."""

STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --soft: #5b6570; --line: #dfe3e8; --wash: #f6f8fa;
  --good: #1a6b3c; --bad: #b3261e; --warn: #8a5a00; --link: #0b5394; }
* { box-sizing: border-box; }
html { scroll-padding-top: 3.5rem; }
body { margin: 0 auto; padding: 0 2rem 4rem; max-width: 1320px; background: #fff; color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, "Liberation Sans", sans-serif; }
h1 { font-size: 1.8rem; font-weight: 650; margin: 1.2rem 0 .1rem; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; font-weight: 650; margin: 2.6rem 0 .8rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; font-weight: 650; margin: 1.8rem 0 .5rem; }
p { margin: .4rem 0; max-width: 76ch; }
a { color: var(--link); text-decoration: none; } a:hover { text-decoration: underline; }
.lead { color: var(--soft); font-size: 1.02rem; }
pre { white-space: pre-wrap; font-size: .88rem; }
code { font-size: .92em; background: #0000000d; padding: 0 .2em; border-radius: 3px; }
.note { color: var(--soft); font-size: .88rem; }
nav { position: sticky; top: 0; z-index: 2; background: #fffffff2; border-bottom: 1px solid
  var(--line); padding: .55rem 0; margin-top: .4rem; font-size: .92rem; display: flex;
  flex-wrap: wrap; gap: .2rem 1.2rem; }
.wide { overflow-x: auto; margin: .6rem 0;
  background: linear-gradient(90deg, #fff0, #fff 70%) 100% 0 / 3rem 100% no-repeat local,
  linear-gradient(90deg, #fff0, #0003) 100% 0 / 1rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .65rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { padding-left: .2rem; }
thead th { font-weight: 600; color: var(--soft); vertical-align: bottom; white-space: normal;
  border-bottom: 1.5px solid #aab2bb; }
tbody th { font-weight: 600; text-align: left; }
thead th:first-child { text-align: left; }
tr > th:first-child { position: sticky; left: 0; background: #fff; }
table.quality thead th:nth-child(2), table.words td, table.words th { text-align: left; }
table.words td { white-space: normal; }
table.quality tbody th + th { font-weight: 400; }
table.quality td { white-space: normal; }
tbody tr:hover { background: var(--wash); }
.unit { font-weight: 400; }
.badge { display: inline-block; padding: 0 .55em; border-radius: 1em; font-weight: 600;
  font-size: .85rem; border: 1px solid currentColor; white-space: nowrap; }
.good { color: var(--good); }
.bad { color: #fff; background: var(--bad); border-color: var(--bad); }
.warn { color: var(--warn); background: #fff1cc; }
.alarm { border-left: 4px solid var(--bad); background: #fdf3f2; padding: .5rem 1rem;
  margin: .8rem 0; }
.alarm.mild { border-color: #c98a00; background: #fff9ec; }
.alarm.plain { border-color: var(--line); background: var(--wash); }
p.next { max-width: none; }
.alarm p { max-width: none; font-size: .93rem; margin: .25rem 0; }
details.scan { border-top: 1px solid var(--line); }
details.scan > summary { cursor: pointer; padding: .8rem 0; font-size: 1.2rem; font-weight: 650; }
details.scan > summary .note { font-weight: 400; margin-left: .6rem; }
details.figures { margin: .3rem 0 .8rem; font-size: .9rem; }
details.figures > summary { cursor: pointer; color: var(--link); }
.columns { column-width: 30rem; column-gap: 2.5rem; }
.columns table { width: 100%; break-inside: avoid; margin-bottom: .8rem; }
.columns caption { text-align: left; font-weight: 600; padding: .3rem .2rem; }
.columns td, .columns th { white-space: normal; overflow-wrap: anywhere; padding: .15rem .5rem; }
.columns th { font-weight: 400; color: var(--soft); }
.gallery { display: grid; gap: .9rem; margin: .6rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(23rem, 100%), 1fr)); align-items: start; }
.opening { display: grid; gap: .9rem; margin: .9rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); align-items: start; }
.opening img { height: 21rem; object-fit: contain; }
p.verdict { display: inline-block; margin: .9rem 1.6rem .1rem 0; font-size: 1.02rem; }
.gallery input { position: absolute; opacity: 0; pointer-events: none; }
figure { margin: 0; padding: .5rem; border: 1px solid var(--line); border-radius: 6px;
  background: #fff; }
figure img { display: block; width: 100%; height: auto; }
figure label { cursor: zoom-in; display: block; }
figcaption { font-size: .85rem; color: var(--soft); padding-top: .4rem; }
figcaption b { color: var(--ink); font-weight: 600; }
.gallery input:not(:checked) + figure .panel { overflow: hidden; aspect-ratio: var(--ratio); }
.gallery input:not(:checked) + figure .panel img { width: var(--width); max-width: none;
  margin: var(--top) 0 0 var(--left); }
@media (min-width: 55rem) { .gallery figure:has(.strip) { grid-column: span 2; } }
.gallery input:focus-visible + figure { outline: 2px solid var(--link); }
.gallery input:checked + figure { grid-column: 1 / -1; }
.gallery input:checked + figure label { cursor: zoom-out; }
footer { margin-top: 3rem; padding-top: .8rem; border-top: 1px solid var(--line); }
.scans td, .scans th { padding: .06rem .5rem; line-height: 1.3; }
.scans .badge { margin: .05rem; width: 3.3em; padding: 0; border-radius: 3px; text-align: center;
  font-size: .73rem; font-weight: 500; }
.scans a.bad { color: #fff; } .scans a.warn { color: var(--warn); }
.scans a.good { color: var(--good); border-color: var(--line); font-weight: 400; }
.brief { max-width: 20rem; overflow: hidden; display: -webkit-box; -webkit-box-orient: vertical;
  -webkit-line-clamp: 2; font-size: .75rem; line-height: 1.2; color: var(--soft); }
.brief.long { max-width: 45rem; display: block; font-size: .85rem; }
.first { display: flex; flex-direction: column; }
@media (max-width: 40rem) {
  body { padding: 0 1rem 3rem; }
  .first > .verdicts { order: -2; } .first > .opening { order: -1; }
  .opening { grid-template-columns: 1fr 1fr; } .opening figure:first-child { grid-column: 1 / -1; }
  .opening img { height: auto; }
  tbody th, thead th { white-space: normal; min-width: 4.5rem; }
}
@media print {
  body { font-size: 10px; max-width: none; padding: 0; }
  nav { display: none; }
  figure, tr, .alarm { break-inside: avoid; } h2, h3, summary { break-after: avoid; }
  details.scan::details-content { content-visibility: visible; height: auto; }
  .gallery { grid-template-columns: 1fr 1fr; }
  .wide { overflow: visible; } th, td { padding: .2rem .35rem; }
}
"""
