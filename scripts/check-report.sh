#!/usr/bin/env bash
# Renders a report in headless chromium as a desktop (1280 px) and as a phone (390 px) would, and checks that it needs no
# horizontal scrolling, loads nothing from outside, and draws every chart.
#   scripts/check-report.sh REPORT.html [SCREENSHOTS]     SCREENSHOTS: a folder for desktop.png and phone.png, to look at
set -euo pipefail
if [ $# -lt 1 ] || [ $# -gt 2 ] || [ ! -f "$1" ]; then
  echo "usage: scripts/check-report.sh REPORT.html [SCREENSHOTS]" >&2
  exit 2
fi
report=$1 screenshots=${2:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The page goes into one frame of each width (a window cannot be as narrow as a phone), and a script outside it measures.
python3 - "$report" "$work" <<'PYTHON'
import html
import pathlib
import sys

page = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
work = pathlib.Path(sys.argv[2])
frame = '<iframe id="w{0}" style="border:0;width:{0}px;height:{1}px" srcdoc="{2}"></iframe>'
quoted = html.escape(page)
measure = """
<pre id="result">not measured</pre><script>
addEventListener("load", () => {
  const lines = [];
  for (const width of [1280, 390]) {
    const window = document.getElementById("w" + width).contentWindow, page = window.document;
    const charts = [...page.querySelectorAll("svg")];
    lines.push(["width", window.innerWidth, "scroll", page.documentElement.scrollWidth,
      "charts", charts.length, "empty", charts.filter(c => c.getBoundingClientRect().height < 20).length,
      "outside", window.performance.getEntriesByType("resource").length,
      "external", page.querySelectorAll("script,link,img,iframe,object,[src]").length].join(" "));
  }
  document.getElementById("result").textContent = lines.join("\\n") + "\\nmeasured";
});
</script>"""
(work / "measure.html").write_text(
    '<!DOCTYPE html><meta charset="utf-8">' + frame.format(1280, 900, quoted) + frame.format(390, 844, quoted) + measure,
    encoding="utf-8")
for name, width, height in (("desktop", 1280, 4200), ("phone", 390, 6400)):
    (work / f"{name}.html").write_text(
        '<!DOCTYPE html><meta charset="utf-8"><body style="margin:0">' + frame.format(width, height, quoted), encoding="utf-8")
PYTHON

browser=$(command -v chromium) || { echo "scripts/check-report.sh: chromium is not installed; scripts/dependencies.sh test installs it" >&2; exit 2; }
browse() {
  "$browser" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --user-data-dir="$work/profile" \
    --host-resolver-rules='MAP * ~NOTFOUND' "$@" 2>"$work/browser.log"
}

browse --dump-dom "file://$work/measure.html" >"$work/measured.html" || { tail -n 5 "$work/browser.log" >&2; exit 1; }
result=$(sed -n '/<pre id="result">/,/<\/pre>/p' "$work/measured.html" | sed 's/<[^>]*>//g')
echo "$result"
failed=0
while read -r _ width _ scroll _ charts _ empty _ outside _ external; do
  [ "$width" != measured ] || continue
  if [ "$scroll" -gt "$width" ]; then echo "at $width px the page is $scroll px wide: it needs horizontal scrolling" >&2; failed=1; fi
  if [ "$charts" -eq 0 ] || [ "$empty" -gt 0 ]; then echo "at $width px $empty of $charts charts are not drawn" >&2; failed=1; fi
  if [ "$outside" -gt 0 ] || [ "$external" -gt 0 ]; then echo "the page loads $outside resources and has $external elements that could" >&2; failed=1; fi
done < <(grep '^width' <<<"$result")
grep -q '^measured' <<<"$result" || { echo "the page could not be measured; the browser's log:" >&2; tail -n 5 "$work/browser.log" >&2; failed=1; }
if [ -n "$screenshots" ]; then
  mkdir -p "$screenshots"
  browse --window-size=1280,4200 --screenshot="$screenshots/desktop.png" "file://$work/desktop.html" >/dev/null
  browse --window-size=500,6400 --screenshot="$screenshots/phone.png" "file://$work/phone.html" >/dev/null
fi
exit "$failed"
