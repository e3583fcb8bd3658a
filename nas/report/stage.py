"""The report of a run: one HTML page that works offline, made only of the files in its folder.

The folder may come from a stranger: strings are escaped, the configuration's interpolations are
left alone, and the page's own policy forbids it to load anything.
"""

from pathlib import Path

from plotly.offline import get_plotlyjs

from nas.checks import check
from nas.files import write_atomic
from nas.report.arch_section import architecture, counts
from nas.report.choice_section import choice
from nas.report.finetune_section import finetuning
from nas.report.header_section import header, run_name
from nas.report.latency_section import latency
from nas.report.pareto_section import pareto
from nas.report.prediction_section import predictions
from nas.report.random_section import against_random
from nas.report.ranking_section import ranking
from nas.report.reading import read_run
from nas.report.run_files import RunFiles
from nas.report.runtime_section import runtimes
from nas.report.sampling_section import sampling
from nas.report.show import text
from nas.report.training_section import training

SEARCHED = (header, pareto, against_random, choice, finetuning, predictions, runtimes)
MADE = (training, sampling, ranking, latency, architecture, counts)

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)
STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def write_report(run: Path) -> Path:
    """Writes run/report.html from the files of the run; a section without its file says so.

    Only some runs sample by importance or are ranked: the others have no such section.

    Raises ValueError where `run` is no run folder or a file in it is damaged.
    """
    rule = "a run folder, which holds a config.yaml"
    check("run", (run / "config.yaml").is_file(), rule, str(run))
    path = run / "report.html"
    write_atomic(path, page(read_run(run)))
    return path


def page(files: RunFiles) -> str:
    body = filter(None, (make(files) for make in SEARCHED + MADE))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(run_name(files))}</title>\n<style>{STYLE}</style>\n"
        f"<script>{get_plotlyjs()}</script>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )
