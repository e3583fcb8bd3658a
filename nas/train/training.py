"""One training: everything that changes while it runs, and what a step does."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from random import Random

import numpy as np
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from nas.checks import check
from nas.config.config import Config
from nas.config.run_folder import code_version
from nas.data.batches import Dataset
from nas.exits import Diverged
from nas.train.distributed import ALONE, Ranks
from nas.train.lessons import Lesson, order_of, split
from nas.train.optimization import autocast, is_finite, make_optimizer, make_scheduler, uses_bf16
from search_spaces.space import Arch
from supernet.sampling.gradients import (
    PathNorms,
    alone,
    gradient_norm,
    output_gradient_norms,
    path_norms,
)
from supernet.sampling.paths import Path, State
from supernet.supernet import Supernet
from supernet.task import Batch


@dataclass(eq=False)
class Passed:
    """What the passes of some paths left besides the gradient."""

    teacher: Tensor | None  # outputs (B, ...) that teach the next path
    losses: list[Tensor] = field(default_factory=list)  # of each path
    scores: list[Tensor] = field(default_factory=list)  # (B,) of each, if the data sampler asks
    # Of each random path's gradient alone, where paths share it and their sampler asks.
    norms: list[PathNorms] = field(default_factory=list)


class Training:
    """Everything that changes while training: what a checkpoint holds, the same on all ranks.

    `network` is a supernet, or a plain model whose paths are all the same one. The largest subnet
    of a frozen `teacher` teaches where config.distillation says so. Each rank learns from its part
    of every batch, and from what the others found in theirs. The gradients are averaged whenever
    the weights move, and for each path whose norm is needed, rather than by
    DistributedDataParallel, which expects one backward pass through the same weights every step.
    Batch norms use the statistics of a rank's own part.
    """

    def __init__(
        self,
        config: Config,
        network: nn.Module,
        data: Dataset,
        device: torch.device,
        ranks: Ranks = ALONE,
        teacher: Supernet[Arch] | None = None,
    ) -> None:
        settings = config.train
        self.config = config
        self.teacher = teacher.to(device).requires_grad_(False) if teacher else None
        self.data = data
        self.device = device
        self.bf16 = uses_bf16(settings.precision, device)
        self.ranks = ranks
        self.steps_per_epoch = data.num_train // config.data.batch_size
        self.num_steps = settings.epochs * self.steps_per_epoch
        self.network = network.to(device).train()
        self.parameters = list(network.parameters())
        self.optimizer = make_optimizer(settings, network)
        self.scheduler = make_scheduler(settings, self.optimizer, self.steps_per_epoch)
        self.ema = ModelEmaV3(network, decay=settings.ema_decay, use_warmup=True)
        self.paths = config.paths(space=config.space)
        self.data_sampler = config.examples(num_examples=data.num_train)
        self.path_generator = Random(config.seed)
        self.data_generator = torch.Generator().manual_seed(config.seed)
        self.step = 0
        self.indices = torch.empty(0, dtype=torch.long)  # this epoch's draw, (n,)
        self.weights = torch.empty(0)  # (n,)
        self.order = torch.empty(0, dtype=torch.long)  # of the steps, places in that draw

    def state_dict(self) -> State:
        return {
            "step": self.step,
            "finished": self.step == self.num_steps,
            "commit": code_version(),
            "num_train": self.data.num_train,
            "supernet": self.network.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "paths": self.paths.state_dict(),
            "data_sampler": self.data_sampler.state_dict(),
            "path_generator": self.path_generator.getstate(),
            "data_generator": self.data_generator.get_state(),
            "indices": self.indices,
            "weights": self.weights,
        }

    def load_state_dict(self, state: State) -> None:
        """Raises ValueError for another version's state, or another number of examples."""
        missing = sorted(self.state_dict().keys() - state.keys() - {"commit"})
        rule = f"of this version, whose checkpoints also have {missing}"
        check("run", not missing, rule, self.config.run)
        rule = f"the {state['num_train']} training examples that the run began with"
        check("data", self.data.num_train == state["num_train"], rule, self.data.num_train)
        self.step = state["step"]
        self.network.load_state_dict(state["supernet"])
        self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.paths.load_state_dict(state["paths"])
        self.data_sampler.load_state_dict(state["data_sampler"])
        self.path_generator.setstate(state["path_generator"])
        self.data_generator.set_state(state["data_generator"].cpu())
        self.indices, self.weights = state["indices"].cpu(), state["weights"].cpu()
        self.scheduler.step_update(self.step)

    def epoch_batches(self) -> Iterator[Batch]:
        """This rank's part of the rest of the current epoch, which begins with a new draw."""
        epoch, start = divmod(self.step, self.steps_per_epoch)
        if start == 0:
            epochs = self.config.train.epochs
            self.paths.begin_epoch(epoch, epochs)
            drawn = self.data_sampler.draw_epoch(self.data_generator, epoch, epochs)
            self.indices, self.weights = drawn
        size, parts = self.config.data.batch_size, self.parts_of(self.paths.num_paths)
        self.order = order_of(self.steps_per_epoch, parts, size)
        # Augmentation is a function of seed, epoch, rank and batch: nothing to save.
        rank, world = self.ranks.rank, self.ranks.world
        stream = (rank,) if rank else ()  # the first rank's is that of training alone
        sequence = np.random.SeedSequence([self.config.seed, epoch], spawn_key=stream)
        seed = int(sequence.generate_state(1)[0])
        part = self.ranks.part(self.indices[self.order])
        size = size * parts // world
        return self.data.train_batches(part, batch_size=size, seed=seed, start=start)

    def parts_of(self, num_paths: int) -> int:
        """Batches that a step with so many paths has: one for all of them, or one for each."""
        return num_paths if self.config.train.batches == "own" else 1

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One step from one batch, of which a rank has its part, and its paths.

        The paths share the batch, or each has a part of its own (train.batches). The weights move
        once, by the mean of the paths' gradients, or after each path (train.update). Raises
        Diverged for a loss or a gradient that is not finite, before it moves the weights by it.
        """
        lessons = self.lessons(self.paths.draw(self.path_generator), batch, self.weights_of(batch))
        teacher, norm = None, 0.0
        losses: list[float] = []
        scores: list[Tensor] = []
        self.scheduler.step_update(self.step)
        together = self.config.train.update == "step"
        for group in [lessons] if together else [[lesson] for lesson in lessons]:
            passed = self.backward(group, self.ranks, teacher)
            teacher = passed.teacher
            path_losses, path_norm = self.move([lesson.path for lesson in group], passed)
            losses, norm = losses + path_losses, max(norm, path_norm)
            scores += passed.scores
        if scores:
            own = self.config.train.batches == "own"
            found = torch.cat(scores) if own else torch.stack(scores).mean(0)
            self.data_sampler.observe(self.ranks.gather(batch.indices), self.ranks.gather(found))
        self.step += 1
        self.ema.update(self.network, step=self.step)
        lr = self.optimizer.param_groups[0]["lr"]
        return {"loss": sum(losses) / len(lessons), "grad_norm": norm, "lr": lr}

    def lessons(self, paths: list[Path[Arch]], batch: Batch, weights: Tensor) -> list[Lesson]:
        """What each path learns from; `weights` (B,) are of the batch's examples."""
        parts = split(batch, self.parts_of(len(paths)))
        found = list(
            zip(parts, weights.chunk(len(parts)), self.teacher_outputs(parts), strict=True)
        )
        found *= len(paths) // len(parts)
        return [Lesson(path, *one) for path, one in zip(paths, found, strict=True)]

    def move(self, paths: list[Path[Arch]], passed: "Passed") -> tuple[list[float], float]:
        """Moves the weights by the gradient that `paths` left, and tells their sampler of it.

        Returns each path's loss and the norm of the gradient.
        """
        norms, norm = passed.norms, gradient_norm(self.parameters)
        # A path alone left the gradient that its norms are of.
        is_alone = len(paths) == 1 and paths[0].role in ("random", "single")
        needed = self.paths.norms if is_alone else "none"
        if needed in ("path", "choice"):
            norms = [self.norms_of(paths[0], norm)]
        largest = self.config.train.clip_grad or inf
        torch.nn.utils.clip_grads_with_norm_(self.parameters, largest, norm)
        if needed == "clipped_choice":
            norms = [self.norms_of(paths[0], norm)]
        found = torch.stack([*passed.losses, norm, *(v for each in norms for v in each.values)])
        self.ranks.average([found])  # the losses; the norms are equal already
        figures = found.tolist()  # the one wait
        path_losses, total_norm = figures[: len(paths)], figures[len(paths)]
        self.refuse_divergence(paths, path_losses, total_norm)
        rest = iter(figures[len(paths) + 1 :])
        for each in norms:
            values = list(islice(rest, len(each.values)))
            self.paths.observe(each.path, each.read(values, each.path.weight / len(paths)))
        self.optimizer.step()
        return path_losses, total_norm

    def backward(
        self, lessons: list[Lesson], ranks: Ranks = ALONE, teacher: Tensor | None = None
    ) -> "Passed":
        """Leaves the gradient of the paths' mean weighted loss, averaged over `ranks`.

        `teacher` has the outputs that teach until the largest subnet's own are there.
        """
        task, teach = self.data.task, self.config.distillation
        scored = self.data_sampler.needs_scores
        self.optimizer.zero_grad()
        passed = Passed(teacher)
        for path, batch, weights, given in lessons:
            outputs = self.forward(batch, path)
            if scored:
                outputs.retain_grad()
            hard_loss = task.training_loss(outputs, batch.targets)
            teacher = passed.teacher if given is None else given
            loss = (weights * teach(task, outputs, hard_loss, teacher)).mean()
            scale = path.weight / len(lessons)
            if path.role == "random" and self.paths.norms != "none" and len(lessons) > 1:
                with alone(self.parameters):
                    (scale * loss).backward()
                    self.average_gradients(ranks)
                    passed.norms.append(self.norms_of(path, gradient_norm(self.parameters)))
            else:
                (scale * loss).backward()
            passed.losses.append(loss.detach())
            if scored:
                of_each = output_gradient_norms(outputs, weights * (scale / len(weights)))
                passed.scores.append(of_each)
            if path.role == "largest" and self.teacher is None:
                passed.teacher = outputs.detach()
        self.fill_gradients()
        self.average_gradients(ranks)  # once more for some paths, which changes nothing
        return passed

    def forward(self, batch: Batch, path: Path[Arch]) -> Tensor:
        """Outputs of the path's subnet, which a plain model is already."""
        arch = {"arch": path.arch} if isinstance(self.network, Supernet) else {}
        with autocast(self.device, enabled=self.bf16):
            outputs: Tensor = self.network(*batch.inputs, **arch)
        return outputs

    @torch.no_grad()
    def teacher_outputs(self, parts: list[Batch]) -> list[Tensor | None]:
        """Outputs of the largest subnet that teach on each part, None where there are none.

        A part that the largest itself learns from, the first, needs none besides.
        """
        network, asked = self.teacher, parts
        if network is None:
            if self.config.distillation.teacher == "none" or len(parts) == 1:
                return [None] * len(parts)
            assert isinstance(self.network, Supernet)  # a plain model has one path
            network, asked = self.network, parts[1:]
        inputs = [torch.cat(one) for one in zip(*(part.inputs for part in asked), strict=True)]
        with autocast(self.device, enabled=self.bf16):
            outputs = network(*inputs, arch=self.config.space.largest())
        found = outputs.split([len(part.targets) for part in asked])
        return [None] * (len(parts) - len(asked)) + list(found)

    def weights_of(self, batch: Batch) -> Tensor:
        """What the loss of each example (B,) is multiplied by, as drawn for this epoch."""
        size = len(batch.targets) * self.ranks.world
        begin = self.step % self.steps_per_epoch * size
        drawn = self.weights[self.order[begin : begin + size]]
        part = self.ranks.part(drawn.to(self.device))
        # An example may be mixed with its mirror in the batch.
        return part * part.flip(0) if self.config.data.mixes else part

    def norms_of(self, path: Path[Arch], whole: Tensor) -> PathNorms:
        """The norms that the path sampler asks for; `whole` is that of the gradients at hand."""
        assert isinstance(self.network, Supernet)  # a plain model's path learns from none
        return path_norms(self.network, path, self.paths.norms, whole)

    def fill_gradients(self) -> None:
        """Zeros where no path went: fused optimizers need gradients of all parameters or none."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def average_gradients(self, ranks: Ranks) -> None:
        """Of the same parameters on every rank, since all train the same paths."""
        ranks.average([p.grad for p in self.parameters if p.grad is not None])

    def figures(self) -> dict[str, float]:
        """What the samplers have to log."""
        return {**self.paths.figures(), **self.data_sampler.figures()}

    def refuse_divergence(self, paths: list[Path[Arch]], losses: list[float], norm: float) -> None:
        for path, loss in zip(paths, losses, strict=True):
            if not is_finite(loss):
                raise Diverged(
                    f"loss is {loss} at step {self.step} for the {path.role} {path.arch}"
                )
        if not is_finite(norm):
            archs = "; ".join(f"{path.role} {path.arch}" for path in paths)
            raise Diverged(f"gradient norm is {norm} at step {self.step} for {archs}")
