"""The report of a run: one HTML page that works offline, made only of the files in its folder.

The folder may come from a stranger: strings are escaped, the configuration's interpolations are
left alone, and the page's own policy forbids it to load anything.
"""

from pathlib import Path

from plotly.offline import get_plotlyjs

from nas.files import write_atomic
from nas.report import ranking, sampling, sections
from nas.report.baseline import against_random
from nas.report.choosing import choosing
from nas.report.formatting import text
from nas.report.header import header, run_name
from nas.report.latency import latency
from nas.report.pareto import pareto
from nas.report.predictors import predictors
from nas.report.reading import RunFiles, read_run
from nas.report.runtimes import runtimes

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)

STYLE = """
:root { --ink: #1f2933; --soft: #52606d; --line: #e4e7eb; --good: #00664a; --bad: #a63d00; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f7fa; color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1360px; margin: 0 auto; padding: 28px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 0 0 4px; }
h3 { font-size: 15px; margin: 0 0 6px; }
p { margin: 4px 0 10px; max-width: 105ch; }
code { font: 13px ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace;
  background: #eef1f5; border-radius: 4px; padding: 1px 5px; overflow-wrap: anywhere; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 22px; margin-top: 18px; }
section > :last-child { margin-bottom: 0; }
.soft { color: var(--soft); }
.absent { color: var(--soft); font-style: italic; }
.panels { display: grid; gap: 12px 24px; }
.panels > * { min-width: 0; }
.two { grid-template-columns: repeat(2, minmax(0, 1fr)); }
.three { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.aside { grid-template-columns: minmax(0, 1fr) 210px; }
@media (max-width: 1000px) { .two, .three, .aside { grid-template-columns: minmax(0, 1fr); } }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 8px 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.aside dl { font-size: 13px; }
.tiles { display: grid; gap: 12px; margin: 14px 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 225px), 1fr)); }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
.tile b { display: block; font-size: 25px; line-height: 1.3; font-weight: 650; }
.tile span { display: block; color: var(--soft); font-size: 13px; line-height: 1.4; }
.chip { display: inline-block; border-radius: 999px; padding: 2px 12px; margin: 0 6px 6px 0;
  font-size: 13px; border: 1px solid; }
.met { color: var(--good); background: #e8f7f1; }
.broken { color: var(--bad); background: #fdefe6; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 12.5px;
  font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px; border-bottom: 1px solid var(--line);
  vertical-align: top; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; }
th.words, td.words { text-align: left; white-space: normal; }
tr.named td { background: #f2f8fd; }
.role { font-weight: 650; color: #005a8f; }
svg text.note { font-size: 13px; fill: var(--ink); }
svg text.names { font-size: 12px; fill: var(--soft); }
.picture svg { width: 100%; max-width: 960px; display: block; }
@media print { section { break-inside: avoid; } body { background: #fff; } }
"""


def write_report(run: Path) -> Path:
    """Writes run/report.html from the files of the run; a section without its file says so.

    Only some runs sample by importance or are ranked: the others have no such section.

    Raises ValueError where `run` is no folder or a file in it is damaged.
    """
    if not run.is_dir():
        raise ValueError(f"run must be a folder, got {str(run)!r}")
    path = run / "report.html"
    write_atomic(path, page(read_run(run)))
    return path


def page(files: RunFiles) -> str:
    body = [
        header(files),
        pareto(files),
        against_random(files),
        choosing(files),
        predictors(files),
        runtimes(files),
        sections.training(files),
        sampling.sampling(files),
        ranking.ranking(files),
        latency(files),
        sections.architecture(files),
        sections.counts(files),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(run_name(files))}</title>\n<style>{STYLE}</style>\n"
        f"<script>{get_plotlyjs()}</script>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, body))
        + "\n</main>\n</body>\n</html>\n"
    )
