"""Stage 2: what subnets cost on the target, here or on another machine. Writes latency.jsonl.

For another machine a plan is written here, measured there with nothing but this package, and the
table that comes back is searched here.
"""

from contextlib import closing
from pathlib import Path

from rich.console import Console

from nas.config.config import Config
from nas.measure.feasibility import print_feasibility, three_subnets
from nas.measure.meter import open_meter
from nas.measure.plan import measure_plan, write_plan
from nas.train.weights import new_supernet


def measure_space(config: Config, run: Path, console: Console) -> None:
    """Prints what subnets cost and the budgets they meet, or writes or measures a plan."""
    if config.plan:
        write_plan(config, run, console)
    elif config.archs:
        measure_plan(config, console)
    else:
        with closing(open_meter(config, run, new_supernet(config))) as meter:
            archs = three_subnets(config, meter)
            costs = {name: meter.costs(arch, config.budget) for name, arch in archs.items()}
        print_feasibility(config, meter, costs, console)
