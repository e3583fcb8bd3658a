"""NVIDIA's FastNAS: the largest network trained, its MLPs pruned, and fine-tuned."""

import contextlib
import copy
import io
import time
from functools import partial

from torch import nn

from benchmarks.alone import Bench, seconds_a_step, train
from nas.train.weights import new_supernet


def fastnas_of(bench: Bench, ratio: float, minutes: float, largest: nn.Module) -> dict[str, float]:
    """The largest trained for two thirds of the time, pruned, and fine-tuned for the rest.

    FastNAS cannot be told a latency here: it is told the FLOPs with which it just keeps the one, or
    the fewest that it can reach. Attempts after the first are not charged to it, and what it found
    of each width is kept for all.
    """
    import modelopt.torch.prune as mtp  # type: ignore[import-not-found]

    begin = time.process_time()
    epoch = bench.data.num_train // bench.config.data.batch_size
    pace = seconds_a_step(bench) * epoch / 60  # minutes an epoch
    model = new_supernet(bench.config).extract(bench.config.space.largest())
    trained = train(bench, model, max(1, round(minutes * 2 / 3 / pace)))
    loader = [b.inputs[0] for b in bench.data.eval_batches("val", 500)][:2]
    spent = (time.process_time() - begin) / 60

    def prune(share: int) -> nn.Module:
        quiet = io.StringIO()
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            pruned, _ = mtp.prune(
                copy.deepcopy(trained),
                mode="fastnas",
                constraints={"flops": f"{share}%"},
                dummy_input=bench.batch[:1],
                config={
                    "data_loader": loader,
                    "score_func": partial(bench.score, split="val"),
                    "checkpoint": str(bench.work / "fastnas.pth"),
                },
            )
        return pruned

    begin = time.process_time()
    pruned = trained
    for share in range(round(100 * ratio), 30, -3):
        try:
            pruned = prune(share)
        except ValueError:  # attention, which it keeps, is a third of the FLOPs
            break
        if share == round(100 * ratio):
            spent += (time.process_time() - begin) / 60
        if bench.latency(pruned, largest) <= ratio * 1.02:
            break
    begin = time.process_time()
    epochs = max(1, round((minutes - spent) / pace / bench.latency(pruned, largest)))
    tuned = train(bench, pruned, epochs, bench.config.train.lr / 2)
    return {
        "test": bench.score(tuned),
        "before": bench.score(trained),
        "latency": bench.latency(tuned, largest),
        "minutes": spent + (time.process_time() - begin) / 60,
    }
