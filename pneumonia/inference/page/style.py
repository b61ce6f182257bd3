"""How the page looks, light and dark, wide and narrow."""

STYLE = """
.gradio-container {--pn-line:#d5dae1; --pn-soft:#eef1f5; --pn-faint:#5b6573; --pn-mark:#1f2937;
  --pn-well:#0b6aa8; --pn-ill:#b8470b; --pn-open:#6b5b95; --pn-none:#5b6573}
.dark .gradio-container, .gradio-container.dark, .dark {--pn-line:#3a4250; --pn-soft:#262d38;
  --pn-faint:#a7b0bd; --pn-mark:#f3f4f6; --pn-well:#5fb0e6; --pn-ill:#f2935c; --pn-open:#b7a6e0;
  --pn-none:#a7b0bd}
.gradio-container main {max-width:880px; margin:0 auto; padding:16px 0}
.gradio-container .html-container {padding:0 !important}
@media (max-width:640px) {.gradio-container .main {padding:8px 16px !important}}
.gradio-container h1 {font-size:1.45rem; font-weight:650; line-height:1.25; margin:0 0 10px}
.gradio-container p, .gradio-container summary, .gradio-container footer {line-height:1.5}
.pn-device {border-left:3px solid var(--pn-ill); padding:2px 0 2px 12px; margin:0}
.pn-quiet {font-size:.875rem; color:var(--pn-faint)}
#uploads {border:1px solid var(--pn-line); border-radius:8px}
.pn-examples {align-items:center}
.pn-examples > .block {flex:1 1 300px !important}
.pn-examples button {flex:0 0 auto !important; min-width:7.5rem !important}
.pn-note {box-shadow:inset 0 0 0 1px var(--pn-line); border-radius:8px;
  padding:14px 18px !important}
.pn-summary {display:flex; flex-wrap:wrap; gap:4px 24px; justify-content:space-between;
  align-items:baseline; margin:0 0 10px}
.pn-summary p {margin:0; font-weight:600}
.pn-summary .pn-csv {margin:0 !important; padding:0 !important}
.pn-card {--pn-hue:var(--pn-none); border-radius:8px; border-left:4px solid var(--pn-hue);
  box-shadow:inset 0 0 0 1px var(--pn-line); padding:16px 20px; margin:0 0 16px}
.pn-card p {margin:6px 0}
.pn-well {--pn-hue:var(--pn-well)}
.pn-ill {--pn-hue:var(--pn-ill)}
.pn-open {--pn-hue:var(--pn-open)}
.pn-card .pn-name {font-size:.875rem; color:var(--pn-faint); overflow-wrap:anywhere; margin:0}
.pn-card .pn-verdict {font-size:1.5rem; font-weight:700; line-height:1.2; color:var(--pn-hue);
  margin:2px 0 8px}
.pn-lead, .pn-warning {font-weight:600}
.pn-scale {position:relative; margin:16px 0 4px}
.pn-bar {position:relative; height:14px; background:var(--pn-soft); border-radius:7px;
  overflow:hidden}
.pn-fill {position:absolute; inset:0 auto 0 0; background:var(--pn-hue)}
.pn-band, .pn-key {background:repeating-linear-gradient(45deg, transparent 0 4px,
  color-mix(in srgb, var(--pn-mark) 45%, transparent) 4px 6px)}
.pn-band {position:absolute; top:0; height:100%}
.pn-key {display:inline-block; width:28px; height:10px; margin-right:8px;
  border:1px solid var(--pn-line)}
.pn-tick {position:absolute; top:-6px; height:26px; width:3px; margin-left:-1.5px;
  background:var(--pn-mark); border-radius:1px}
.pn-dot {position:absolute; top:-2px; height:18px; width:18px; margin-left:-9px; border-radius:9px;
  box-sizing:border-box; background:var(--pn-hue); border:3px solid var(--body-background-fill)}
.pn-legend {position:relative; display:flex; justify-content:space-between; font-size:.8125rem;
  color:var(--pn-faint); padding-top:4px; min-height:2.9em}
.pn-before, .pn-after {position:absolute; top:1.6em; white-space:nowrap; color:var(--pn-mark)}
.pn-card details {margin:8px 0}
.pn-card summary {cursor:pointer; color:var(--pn-faint)}
.pn-pictures {display:grid; grid-template-columns:repeat(auto-fit, minmax(min(240px, 100%), 1fr));
  gap:16px; margin-top:12px}
.pn-pictures figure {margin:0; max-width:420px}
.pn-none .pn-pictures figure {max-width:260px}
.pn-pictures img {width:100%; height:auto; border-radius:4px; margin:0; display:block;
  background:#000}
.pn-pictures figcaption {font-size:.8125rem; line-height:1.45; color:var(--pn-faint);
  margin-top:6px}
.pn-ramp {display:flex; gap:8px; align-items:center; margin-bottom:4px}
.pn-ramp i {flex:1 1 auto; max-width:120px; height:8px; border-radius:2px; background:
  linear-gradient(90deg, #808080, #57106e, #bc3754, #f98e09, #fcffa4)}
"""
"""CSS of the classes that the page and its answers use."""
