"""The head of the report: what was run, and the figures of the subnet it chose."""

from collections.abc import Sequence
from pathlib import Path

from nas.report.budgets import LOWER, meets, sign
from nas.report.formatting import (
    Record,
    absent,
    definitions,
    describe_arch,
    finite,
    listed,
    number,
    percent,
    section,
    span,
    text,
)
from nas.report.reading import RunFiles, part

UNITS = {"latency_ms": "ms", "memory_mib": "MiB", "params": "parameters"}


def run_name(files: RunFiles) -> str:
    return Path(str(files.config.get("run", files.folder))).name


def header(files: RunFiles) -> str:
    """What was run, on what, and what came of it."""
    space, data = part(files.config, "space"), part(files.config, "data")
    options = [f"{text(key)} {listed(value)}" for key, value in space.items() if key != "_target_"]
    kind = str(space.get("_target_", "")).rpartition(".")[2]
    facts = {
        "space": f"{text(kind)}: {'; '.join(options)}" if options else text(kind),
        "data": describe_data(data),
        "commit": text(files.card.get("commit")),
        "seed": text(files.config.get("seed")),
        "newest file": text(files.newest_input()),
    }
    return f"<header><h1>{text(run_name(files))}</h1>{definitions(facts)}</header>" + section(
        "The chosen subnet", chosen_subnet(files)
    )


def describe_data(data: Record) -> str:
    size = number(data.get("img_size"))
    return (
        f"{text(data.get('name'))}: {size} by {size} pixels, channels "
        f"{number(data.get('in_chans'))}, classes {number(data.get('num_classes'))}"
    )


def chosen_subnet(files: RunFiles) -> str:
    chosen = files.named().get("chosen")
    if chosen is None and files.search and files.judged():
        return nothing_feasible(files)
    if chosen is None:
        return absent(f"No subnet is chosen yet: {files.command('search')} chooses one.")
    outdated = ""
    if files.search and not files.search.get("chosen"):
        outdated = f"{nothing_feasible(files)}<p>Exported before, or picked by hand:</p>"
    made = absent(f"Not exported yet: {files.command('export')} does.")
    if files.earlier_card:
        made = absent(
            "The folder subnet/ holds the choice of an earlier search: "
            f"{files.command('export')} exports this one."
        )
    if files.card:
        command, step = text(files.card.get("command")), number(files.card.get("step"))
        made = f'<p class="soft">Exported at step {step} by <code>{command}</code>.</p>'
    return (
        f"{outdated}<p>{describe_arch(chosen.get('arch'))}</p>"
        f'<div class="tiles">{"".join(tiles(files, chosen))}</div>{chips(files, chosen)}{made}'
    )


def nothing_feasible(files: RunFiles) -> str:
    """Which budgets were met by no candidate, and the nearest value seen of each."""
    nearest = [nearest_value(files.judged(), name) for name in files.budget()]
    return (
        "<p>No evaluated subnet meets every budget. Nearest values seen of each: "
        f"{', '.join(nearest)}.</p>"
        if nearest
        else absent(f"No subnet is chosen: {files.command('search')} chooses one.")
    )


def nearest_value(judged: Sequence[Record], name: str) -> str:
    key = name.removeprefix(LOWER)
    seen = [value for c in judged if (value := finite(c.get(key))) is not None]
    value = (max if name.startswith(LOWER) else min)(seen, default=None)
    return f"{text(key)} {number(value)}"


def tiles(files: RunFiles, chosen: Record) -> list[str]:
    """Accuracy, latency, parameters and memory of the chosen subnet, each beside the largest's."""
    costs = part(files.card, "costs") or chosen
    device = part(files.card, "device") or files.device(chosen.get("digest"))
    batch = number(device.get("batch_size"))
    return [
        accuracy_tile(files.card, chosen),
        tile(
            number(costs.get("latency_ms"), "ms"),
            f"latency a batch of {batch} on {text(device.get('device'))}",
            f"{number(costs.get('latency_of_largest'))} of the largest, 95&nbsp;% interval "
            f"{span(costs.get('ratio_low'), costs.get('ratio_high'))}, "
            f"{number(costs.get('num_passes'))} passes",
        ),
        tile(
            number(costs.get("params")),
            "stored parameters",
            f"{number(costs.get('params_of_largest'))} of the largest",
        ),
        tile(
            number(costs.get("memory_mib"), "MiB"),
            f"peak memory a batch of {batch}",
            f"{number(costs.get('memory_of_largest'))} of the largest",
        ),
    ]


def accuracy_tile(card: Record, chosen: Record) -> str:
    test, largest = part(card, "test"), part(card, "largest_test")
    if not test:
        return tile(
            percent(chosen.get("top1")),
            f"{text(chosen.get('split'))} top-1, {number(chosen.get('num_examples'))} examples",
            "the test split is opened by export",
        )
    interval = span(test.get("low"), test.get("high"), 100, 1)
    of_largest = span(largest.get("low"), largest.get("high"), 100, 1)
    return tile(
        percent(test.get("top1")),
        f"{text(test.get('split'))} top-1, {number(test.get('num_examples'))} examples, "
        f"95&nbsp;% interval {interval}&nbsp;%",
        f"largest {percent(largest.get('top1'))}, {of_largest}&nbsp;%",
    )


def tile(figure: str, *lines: str) -> str:
    below = "".join(f"<span>{line}</span>" for line in lines)
    return f'<div class="tile"><b>{figure}</b>{below}</div>'


def chips(files: RunFiles, chosen: Record) -> str:
    """Each budget and whether the chosen subnet meets it."""
    budgets = files.card.get("budgets")
    if not isinstance(budgets, list):
        budgets = [
            {"name": name, "limit": limit, "value": chosen.get(name.removeprefix(LOWER))}
            | {"met": meets(chosen, {name: limit})}
            for name, limit in files.budget().items()
        ]
    records = [budget for budget in budgets if isinstance(budget, dict)]
    if not records:
        return "<p>No budget was set.</p>"
    return f"<div>{''.join(map(chip, records))}</div>"


def chip(budget: Record) -> str:
    met, name = budget.get("met") is True, str(budget.get("name"))
    key = name.removeprefix(LOWER)
    unit = UNITS.get(key, "")
    return (
        f'<span class="chip {"met" if met else "broken"}">{text(key)} '
        f"{number(budget.get('value'), unit)}, budget {sign(name)} "
        f"{number(budget.get('limit'), unit)}: {'met' if met else 'broken'}</span>"
    )
