"""What every family of supernets offers: the seam between the weights and the pipeline."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Supernet(nn.Module, ABC):
    """One set of weights for every architecture of a space."""

    fixed: Any  # a dataclass of numbers: the sizes that all architectures have in common

    @abstractmethod
    def forward(self, images: Tensor, arch: Any) -> Tensor:
        """Logits (B, num_classes) of one subnet for images (B, C, H, W)."""

    @abstractmethod
    def build(self, arch: Any, *, device: torch.device | str | None = None) -> nn.Module:
        """The plain model of an architecture, untrained: stock modules that need no supernet."""

    @abstractmethod
    def factorise(self, arch: Any) -> dict[str, Tensor]:
        """Copies of what a subnet must store, shared factors once."""

    @abstractmethod
    def merge(self, tensors: Mapping[str, Tensor], arch: Any) -> dict[str, Tensor]:
        """The state dict of the plain model from what `factorise` returned."""

    @abstractmethod
    def own_gradients(self, arch: Any) -> dict[str, list[Tensor]]:
        """The gradients of each choice's own parameters in use by `arch`, after a backward pass.

        Choices without parameters of their own have an empty list; unused ones are left out.
        """

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's rule (vectors do not decay) misses."""
        return set()

    def extract(self, arch: Any) -> nn.Module:
        """The plain model of a subnet, in eval mode, with copies of its weights.

        Batch norms, where it has any, come without statistics: see `supernet.batch_norm`.
        """
        model = self.build(arch, device="meta")
        state = self.merge(self.factorise(arch), arch)
        model.load_state_dict(state, assign=True)
        return model.eval()
