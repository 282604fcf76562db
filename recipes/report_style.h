#pragma once

namespace taper {

/// The report's style sheet: light and dark by the reader's setting, one column on a phone.
inline constexpr const char* kReportStyle = R"css(
:root {
  color-scheme: light dark;
  --page: #fcfcfa; --panel: #f3f3ef; --ink: #1d2024; --soft: #5c636d; --rule: #dcdcd5;
  --thin: #1a5fb4; --wide: #b85c00; --scratch: #6b6f76; --faint: #aebfd6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15171a; --panel: #1e2126; --ink: #e7e7e3; --soft: #a2a8b1; --rule: #343840;
    --thin: #78aeff; --wide: #f0a04b; --scratch: #a9adb4; --faint: #3f546f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}
main { max-width: 66rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: clamp(1.6rem, 5vw, 2.2rem); line-height: 1.15; margin: 0 0 .35rem; letter-spacing: -.015em; }
h2 { font-size: 1.3rem; line-height: 1.25; margin: 3rem 0 .6rem; }
h3 { font-size: 1.02rem; margin: 1.8rem 0 .2rem; }
h1, h2, h3, p, dd, li { overflow-wrap: anywhere; }
p { margin: .5rem 0; max-width: 44rem; }
.lead { font-size: 1.08rem; }
.soft, .note, figcaption { color: var(--soft); }
.note { font-size: .875rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .9rem; margin: 1.6rem 0; }
.tile { background: var(--panel); border-radius: .5rem; padding: .9rem 1.1rem; border-left: 4px solid var(--scratch); }
.tile.thin { border-color: var(--thin); }
.tile.wide { border-color: var(--wide); }
.tile b { display: block; font-size: 1.8rem; line-height: 1.2; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile span { display: block; font-size: .875rem; color: var(--soft); }
.tile .name { color: var(--ink); font-weight: 600; font-size: .95rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; min-width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .65rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; min-width: 4.6rem; max-width: 7rem; }
th:first-child { text-align: left; padding-left: 0; position: sticky; left: 0; background: var(--page); }
tbody th { font-weight: 600; white-space: normal; min-width: 7.2rem; }
td small { color: var(--soft); font-size: .85em; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: .5rem 1.6rem; }
figure { margin: .8rem 0 0; max-width: 34rem; }
figcaption { font-size: .9rem; margin-bottom: .2rem; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 12px; fill: var(--soft); }
svg .strong { fill: var(--ink); font-weight: 600; }
svg .middle { text-anchor: middle; }
svg .end { text-anchor: end; }
svg path { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg .grid { stroke: var(--rule); }
svg .axis { stroke: var(--soft); }
svg path.thin, svg line.thin { stroke: var(--thin); }
svg path.wide, svg line.wide { stroke: var(--wide); }
svg path.scratch, svg line.scratch { stroke: var(--scratch); }
svg circle.thin { fill: var(--thin); }
svg circle.wide { fill: var(--wide); }
svg circle.scratch { fill: var(--scratch); }
svg path.raw { stroke-width: 1; opacity: .35; }
svg .seed { opacity: .4; }
svg .spread { stroke-width: 2; }
svg .mean { stroke-width: 3.5; stroke-linecap: round; }
svg .before { fill: var(--faint); }
svg .after { fill: var(--thin); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: .15em; vertical-align: -.05em; }
.key.before { background: var(--faint); }
.key.after { background: var(--thin); }
pre { background: var(--panel); border-radius: .4rem; padding: .8rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; line-height: 1.45; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .25rem 1.2rem; font-size: .93rem; }
dt { color: var(--soft); }
dd { margin: 0; }
summary { cursor: pointer; color: var(--thin); }
@media print { .scroll { overflow: visible; } }
)css";

}  // namespace taper
