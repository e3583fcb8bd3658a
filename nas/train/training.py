"""One training: everything that changes while it runs, and what a step does."""

from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from math import log
from random import Random
from typing import Any

import numpy as np
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor

from nas.checks import check
from nas.config.config import Config
from nas.config.run_folder import code_version
from nas.data.batches import Batch, ImageData
from nas.exits import Diverged
from nas.train.distributed import ALONE, Ranks
from nas.train.optimization import autocast, is_finite, make_optimizer, make_scheduler, uses_bf16
from nas.train.weights import make_supernet
from supernet.losses import cross_entropy
from supernet.sampling.examples import DataSampler
from supernet.sampling.gradients import (
    PathNorms,
    alone,
    gradient_norm,
    logit_gradient_norms,
    path_norms,
)
from supernet.sampling.paths import Path as SampledPath


class Training:
    """Everything that changes while training: what a checkpoint holds, the same on all ranks.

    Each rank learns from its part of every batch, and from what the others found in theirs. The
    gradients are averaged once a step, and once for each path whose norm is needed, rather than by
    DistributedDataParallel, which expects one backward pass through the same weights every step.
    Batch norms use the statistics of a rank's own part.
    """

    def __init__(
        self, config: Config, device: torch.device, num_train: int, ranks: Ranks = ALONE
    ) -> None:
        settings = config.train
        self.config = config
        self.device = device
        self.bf16 = uses_bf16(settings.precision, device)
        self.num_train = num_train
        self.ranks = ranks
        self.steps_per_epoch = num_train // config.data.batch_size
        self.num_steps = settings.epochs * self.steps_per_epoch
        self.supernet = make_supernet(config).to(device)
        self.parameters = list(self.supernet.parameters())
        self.optimizer = make_optimizer(settings, self.supernet)
        self.num_params = cache(self.count_params)
        self.momenta: dict[str, Any] = {}  # the optimizer's state by option of momentum_choice
        self.scheduler = make_scheduler(settings, self.optimizer, self.steps_per_epoch)
        self.ema = ModelEmaV3(self.supernet, decay=settings.ema_decay, use_warmup=True)
        self.paths = config.paths
        self.data_sampler: DataSampler = config.examples(num_examples=num_train)
        self.path_generator = Random(config.seed)
        self.data_generator = torch.Generator().manual_seed(config.seed)
        self.step = 0
        self.indices = torch.empty(0, dtype=torch.long)  # this epoch's draw, (n,)
        self.weights = torch.empty(0)  # (n,)

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "finished": self.step == self.num_steps,
            "commit": code_version(),
            "num_train": self.num_train,
            "supernet": self.supernet.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "momenta": self.momenta_state(),
            "paths": self.paths.state_dict(),
            "data_sampler": self.data_sampler.state_dict(),
            "path_generator": self.path_generator.getstate(),
            "data_generator": self.data_generator.get_state(),
            "indices": self.indices,
            "weights": self.weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError for another version's state, or another number of training images."""
        missing = sorted(self.state_dict().keys() - state.keys() - {"commit"})
        rule = f"of this version, whose checkpoints also have {missing}"
        check("run", not missing, rule, self.config.run)
        rule = f"the {state['num_train']} training images that the run began with"
        check("data", self.num_train == state["num_train"], rule, self.num_train)
        self.step = state["step"]
        self.supernet.load_state_dict(state["supernet"])
        self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.load_momenta(state["momenta"])
        self.paths.load_state_dict(state["paths"])
        self.data_sampler.load_state_dict(state["data_sampler"])
        self.path_generator.setstate(state["path_generator"])
        self.data_generator.set_state(state["data_generator"].cpu())
        self.indices, self.weights = state["indices"].cpu(), state["weights"].cpu()
        self.scheduler.step_update(self.step)

    def epoch_batches(self, data: ImageData) -> Iterator[Batch]:
        """This rank's part of the rest of the current epoch, which begins with a new draw."""
        epoch, start = divmod(self.step, self.steps_per_epoch)
        if start == 0:
            epochs = self.config.train.epochs
            self.paths.begin_epoch(epoch, epochs)
            drawn = self.data_sampler.draw_epoch(self.data_generator, epoch, epochs)
            self.indices, self.weights = drawn
        # Augmentation is a function of seed, epoch, rank and batch: nothing to save.
        rank, world = self.ranks.rank, self.ranks.world
        stream = (rank,) if rank else ()  # the first rank's is that of training alone
        sequence = np.random.SeedSequence([self.config.seed, epoch], spawn_key=stream)
        seed = int(sequence.generate_state(1)[0])
        size = self.config.data.batch_size
        part = self.ranks.part(self.indices[: self.steps_per_epoch * size])
        return data.train_batches(part, batch_size=size // world, seed=seed, start=start)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One update of the weights from one batch, of which a rank has its part, and its paths."""
        paths = self.paths.draw(self.path_generator)
        loss, norm = self.learn(batch, paths)
        self.update(paths)
        return {"loss": loss, "grad_norm": norm, "lr": self.optimizer.param_groups[0]["lr"]}

    def learn(self, batch: Batch, paths: list[SampledPath]) -> tuple[float, float]:
        """Leaves the clipped gradient, and tells the samplers; mean loss and norm before clipping.

        Raises Diverged for a loss or a norm that is not finite.
        """
        ranks = self.ranks
        size = len(batch.targets) * ranks.world
        begin = self.step % self.steps_per_epoch * size
        weights = self.weights[begin : begin + size].to(self.device)
        part = ranks.part(weights)
        if batch.targets.is_floating_point():
            part = part * part.flip(0)  # an image is mixed with its mirror in the batch
        losses, scores, norms = self.backward(batch, part, paths, ranks)
        norm = gradient_norm(self.parameters)
        single = len(paths) == 1
        if single and self.paths.norms in ("path", "choice"):
            norms = [path_norms(self.supernet, paths[0], self.paths.norms, norm)]
        largest = self.config.train.clip_grad or float("inf")
        torch.nn.utils.clip_grads_with_norm_(self.parameters, largest, norm)
        if single and self.paths.norms == "clipped_choice":
            norms = [path_norms(self.supernet, paths[0], self.paths.norms, norm)]
        if scores:
            mean_scores = ranks.gather(torch.stack(scores).mean(0))
            self.data_sampler.observe(ranks.gather(batch.indices), mean_scores)
        values = [value for found in norms for value in found.values]
        found = torch.stack([*losses, norm, *values])
        ranks.average([found])  # the losses; the norms are equal already
        figures = found.tolist()  # the step's one wait
        self.refuse_divergence(paths, figures[: len(paths) + 1])
        self.observe_paths(norms, figures[len(paths) + 1 :], len(paths))
        return sum(figures[: len(paths)]) / len(paths), figures[len(paths)]

    def backward(
        self, batch: Batch, weights: Tensor, paths: list[SampledPath], ranks: Ranks = ALONE
    ) -> tuple[list[Tensor], list[Tensor], list[PathNorms]]:
        """Leaves the gradient of the paths' mean weighted loss, averaged over `ranks`.

        Returns each path's loss, each path's scores of the examples if the data sampler needs them,
        and, where paths share the step and their sampler asks for it, the norms of each random
        path's gradient alone.
        """
        # Mixup smooths its soft targets itself.
        settings = self.config.train
        smoothing = 0.0 if batch.targets.is_floating_point() else settings.label_smoothing
        scored = self.data_sampler.needs_scores
        self.optimizer.zero_grad()
        losses, scores, norms, teacher = [], [], [], None
        for path in paths:
            with autocast(self.device, enabled=self.bf16):
                logits = self.supernet(batch.images, path.arch)
            if scored:
                logits.retain_grad()
            hard_loss = cross_entropy(logits, batch.targets, smoothing)
            loss = (weights * self.config.distillation(logits, hard_loss, teacher)).mean()
            scale = path.weight / len(paths)
            if path.role == "random" and self.paths.norms != "none" and len(paths) > 1:
                with alone(self.parameters):
                    (scale * loss).backward()
                    self.average_gradients(ranks)
                    whole = gradient_norm(self.parameters)
                    norms.append(path_norms(self.supernet, path, self.paths.norms, whole))
            else:
                (scale * loss).backward()
            losses.append(loss.detach())
            if scored:
                scores.append(logit_gradient_norms(logits, weights * (scale / len(weights))))
            if path.role == "largest":
                teacher = logits.detach()
        self.fill_gradients()
        self.average_gradients(ranks)  # once more for some paths, which changes nothing
        return losses, scores, norms

    def fill_gradients(self) -> None:
        """Zeros where no path went: fused optimizers need gradients of all parameters or none."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def average_gradients(self, ranks: Ranks) -> None:
        """Of the same parameters on every rank, since all train the same paths."""
        ranks.average([p.grad for p in self.parameters if p.grad is not None])

    def observe_paths(self, norms: list[PathNorms], figures: list[float], num_paths: int) -> None:
        """Tells the sampler each random path's norms, which `figures` hold one after another."""
        for found in norms:
            mine, figures = figures[: len(found.values)], figures[len(found.values) :]
            self.paths.observe(found.path, found.read(mine, found.path.weight / num_paths))

    def update(self, paths: list[SampledPath]) -> None:
        """Moves the weights by the gradients that they hold."""
        settings = self.config.train
        self.scheduler.step_update(self.step)
        if settings.schedule == "complexity":
            lr = settings.lr * self.complexity_factor(paths[0].arch)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
        if settings.momentum_choice:
            self.optimizer.state = self.momentum_of(paths[0].arch)
        self.optimizer.step()
        self.step += 1
        self.ema.update(self.supernet, step=self.step)

    def complexity_factor(self, arch: Any) -> float:
        """What is left of the learning rate for a subnet: (1 - t/T)^gamma, by its parameters.

        gamma falls linearly in the logarithm of the parameters from 4 for the smallest subnet to
        1/4 for the largest, so that large ones learn for longer (Jeon et al., 2025,
        https://arxiv.org/abs/2503.10740).
        """
        smallest, largest, own = (
            log(self.num_params(one))
            for one in (self.config.space.smallest(), self.config.space.largest(), arch)
        )
        share = (own - smallest) / (largest - smallest) if largest > smallest else 1.0
        return (1 - self.step / self.num_steps) ** (4 - 3.75 * share)

    def count_params(self, arch: Any) -> int:
        plain = self.supernet.build(arch, device="meta")
        return sum(parameter.numel() for parameter in plain.parameters())

    def momentum_of(self, arch: Any) -> Any:
        """The optimizer's state for subnets with the same option of train.momentum_choice.

        Subnets that are alike in one choice share momentum, and others do not disturb it (Jeon et
        al., 2025, https://arxiv.org/abs/2503.10740).
        """
        option = self.config.space.active(arch).get(self.config.train.momentum_choice)
        return self.momenta.setdefault(str(option), defaultdict(dict))

    def momenta_state(self) -> dict[str, Any]:
        current, states = self.optimizer.state, {}
        for option, momentum in self.momenta.items():
            self.optimizer.state = momentum
            states[option] = self.optimizer.state_dict()["state"]
        self.optimizer.state = current
        return states

    def load_momenta(self, states: dict[str, Any]) -> None:
        groups = self.optimizer.state_dict()["param_groups"]
        for option, state in states.items():
            self.optimizer.load_state_dict({"state": state, "param_groups": groups})
            self.momenta[option] = self.optimizer.state

    def figures(self) -> dict[str, float]:
        """What the samplers have to log."""
        return {**self.paths.figures(), **self.data_sampler.figures()}

    def refuse_divergence(self, paths: list[SampledPath], figures: list[float]) -> None:
        *losses, norm = figures
        for path, loss in zip(paths, losses, strict=True):
            if not is_finite(loss):
                raise Diverged(
                    f"loss is {loss} at step {self.step} for the {path.role} {path.arch}"
                )
        if not is_finite(norm):
            archs = "; ".join(f"{path.role} {path.arch}" for path in paths)
            raise Diverged(f"gradient norm is {norm} at step {self.step} for {archs}")
