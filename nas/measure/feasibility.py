"""Whether a space can meet budgets at all: what its smallest, a median and its largest subnet cost,
and, where none meets them, which budget fails and by how much."""

from collections.abc import Mapping
from random import Random

from rich.console import Console
from rich.table import Table

from nas.budgets import Bound, Budgets
from nas.config.config import Config
from nas.measure.meter import Meter
from nas.records import Costs
from search_spaces.space import Arch

MEDIAN_OF = 31  # sampled architectures whose middle one, by parameters, is called the median


def three_subnets(config: Config, meter: Meter) -> dict[str, Arch]:
    """Architectures that show what a space spans."""
    return {
        "smallest": config.space.smallest(),
        "median": median_arch(config, meter),
        "largest": config.space.largest(),
    }


def median_arch(config: Config, meter: Meter) -> Arch:
    generator, known = Random(config.seed), meter.archs()
    if known is None:
        archs = [config.space.sample(generator) for _ in range(MEDIAN_OF)]
    else:
        archs = generator.sample(known, min(MEDIAN_OF, len(known)))
    return sorted(archs, key=lambda arch: meter.counts(arch).params)[len(archs) // 2]


def print_feasibility(
    config: Config, meter: Meter, costs: Mapping[str, Costs], console: Console
) -> None:
    """What the subnets in `costs` cost, and which of the budgets can be met."""
    console.print(
        f"{config.space.num_archs():.3g} architectures; {meter.card.describe()}; the reference's "
        f"milliseconds ranged over {meter.drift():.1%}",
        markup=False,
        soft_wrap=True,
    )
    if meter.unwatched:
        console.print(f"nobody watches for a throttled clock: {meter.unwatched}", markup=False)
    console.print(cost_table(costs))
    if config.budget:
        console.print(budget_table(costs, config.budget))
    else:
        console.print("no budget is set (budget.latency_of_largest=0.6, say)")


def cost_table(costs: Mapping[str, Costs]) -> Table:
    """One row an architecture."""
    table = Table(title="subnets on the target")
    table.add_column("subnet")
    columns = (
        "latency of largest", "95 % interval", "latency ms", "p90 ms", "memory MiB", "MFLOPs",
        "stored params", "factorised", "merged",
    )  # fmt: skip
    for column in columns:
        table.add_column(column, justify="right")
    for name, cost in costs.items():
        known, counts = cost.measurement, cost.counts
        table.add_row(
            name,
            f"{known.ratio:.3f}",
            f"{known.ratio_low:.3f}-{known.ratio_high:.3f}",
            f"{known.latency_ms:.3f}",
            f"{known.p90_ms:.3f}",
            f"{known.memory_mib:.2f}",
            f"{known.flops / 1e6:.2f}",
            f"{counts.params:,}",
            f"{counts.stored_factorised:,}",
            f"{counts.stored_merged:,}",
        )
    return table


def budget_table(costs: Mapping[str, Costs], budgets: Budgets) -> Table:
    """One row a bound, and whether some subnet can meet it: none lies beyond the two extremes."""
    table = Table(title="budgets")
    for column in ("budget", "bound", *costs, "can the space meet it"):
        table.add_column(column, justify="left" if column == "budget" else "right")
    for bound in budgets:
        cells = [
            f"{bound.text(cost.figure(bound.cost))}{' x' if bound.excess(cost) > 0 else ''}"
            for cost in costs.values()
        ]
        limit = f"{bound.sign} {bound.text(bound.limit)}"
        table.add_row(f"budget.{bound.key}", limit, *cells, answer(costs, bound))
    table.caption = "x: misses the bound (a latency by the worse end of its interval)"
    return table


def answer(costs: Mapping[str, Costs], bound: Bound) -> str:
    """Whether a bound can be met; where not, by how much the nearest of all subnets misses it."""
    missed = [bound.excess(cost) for cost in costs.values()]
    if max(missed) <= 0:
        return "yes, by every subnet"
    if min(missed) <= 0:
        return "yes"
    if Budgets((bound,)).out_of_reach(costs["smallest"], costs["largest"]):
        return f"no, missed by {min(missed):.1%}"
    return f"unsure, missed by {min(missed):.1%}"
