"""The head of the page: what was run, and the figures of the subnet it chose."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nas.budgets import Budgets
from nas.records import Costs, DeviceCard, Score
from nas.report import show
from nas.report.run_files import RunFiles
from nas.report.show import SIGNS, number, text
from nas.results import Verdict
from search_spaces.space import Arch

TITLE = "The chosen subnet"
UNITS = {"latency_ms": "ms", "memory_mib": "MiB", "params": "parameters"}


def run_name(files: RunFiles) -> str:
    return Path(files.settings.run).name


def header(files: RunFiles) -> str:
    """What was run, on what, and what came of it."""
    settings = files.settings
    facts = {
        "space": component(settings.space),
        "task": component(settings.task),
        "data": text(settings.data.get("name")),
        "commit": text(files.export and files.export.commit),
        "seed": text(settings.seed),
        "newest file": text(files.newest_input()),
    }
    head = f"<header><h1>{text(run_name(files))}</h1>{show.definitions(facts)}</header>"
    return head + chosen_subnet(files)


def component(node: Mapping[str, object]) -> str:
    """A class of the configuration with its options."""
    hidden = ("_target_", "supernet")
    options = [f"{text(key)} {text(value)}" for key, value in node.items() if key not in hidden]
    return f"{text(str(node['_target_']).rpartition('.')[2])}: {'; '.join(options)}"


def chosen_subnet(files: RunFiles) -> str:
    export, search = files.export, files.search
    missed = ""
    if search and not search.chosen and files.budgets:
        _, words = files.budgets.nearest_miss([candidate.costs for candidate in files.judged])
        missed = f"<p>No evaluated subnet meets every budget: {text(words)}.</p>"
    if export:
        largest = export.largest_test
        note = show.evidence(export.test)
        if largest:
            note = f"largest {files.metric.text(largest.value)}, {show.evidence(largest)}"
        facts = tiles(export.test, note, export.costs, export.card) + chips(export.budgets)
        missed = missed and f"{missed}<p>Exported before, or picked by hand:</p>"
        made = f"Exported at step {number(export.step)} by {show.code(export.command)}."
        return show.section(TITLE, missed + shown(files, export.arch, facts, made))
    if not search or not search.chosen:
        if missed:
            return show.section(TITLE, missed)
        return show.absent(TITLE, f"None is chosen yet: {files.command('search')} chooses one.")
    chosen, made = search.chosen, f"Not exported yet: {files.command('export')} does."
    if files.is_outdated:
        made = (
            "The folder subnet/ holds the choice of an earlier search: "
            f"{files.command('export')} exports this one."
        )
    note = "the test split is opened by export"
    facts = tiles(chosen.score, note, chosen.costs, search.card)
    facts += chips(verdicts(files.budgets, chosen.costs))
    return show.section(TITLE, shown(files, chosen.arch, facts, made))


def shown(files: RunFiles, arch: Arch, facts: str, made: str) -> str:
    return f"<p>{show.arch(files.space, arch)}</p>{facts}{show.paragraph(made)}"


def tiles(score: Score, note: str, costs: Costs, card: DeviceCard) -> str:
    """Score, latency, parameters and memory of the chosen subnet, each beside the largest's."""
    known, batch = costs.measurement, f"a batch of {number(card.batch_size)}"
    found = (
        (
            score.metric.text(score.value),
            f"{text(score.split)} {score.metric.words}, {show.evidence(score)}",
            note,
        ),
        (
            number(known.latency_ms, "ms"),
            f"latency {batch} on {text(card.device)}",
            f"{show.ratio(known)} of the largest, {number(known.num_passes)} passes",
        ),
        (
            number(costs.counts.params),
            "stored parameters",
            f"{number(costs.params_of_largest)} of the largest",
        ),
        (
            number(known.memory_mib, "MiB"),
            f"peak memory {batch}",
            f"{number(costs.memory_of_largest)} of the largest",
        ),
    )
    tiles = [
        f'<div class="tile"><b>{figure}</b><span>{first}</span><span>{second}</span></div>'
        for figure, first, second in found
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def verdicts(budgets: Budgets, costs: Costs) -> tuple[Verdict, ...]:
    """Each bound as the search judged it: a latency by the worse end of its interval."""
    return tuple(
        Verdict(b.key, b.limit, costs.figure(b.cost), b.excess(costs) <= 0) for b in budgets
    )


def chips(verdicts: Sequence[Verdict]) -> str:
    """Each budget and whether the chosen subnet meets it."""
    return f"<div>{''.join(map(chip, verdicts))}</div>" if verdicts else "<p>No budget was set.</p>"


def chip(verdict: Verdict) -> str:
    bound, kind = verdict.bound, "met" if verdict.met else "broken"
    unit = UNITS.get(bound.cost, "")
    return (
        f'<span class="chip {kind}">{bound.cost} {number(verdict.value, unit)}, budget '
        f"{SIGNS[bound.sign]} {number(bound.limit, unit)}: {kind}</span>"
    )
