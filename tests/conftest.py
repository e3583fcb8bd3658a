"""What every test shares: one thread, because the machine has two cores and others use them."""

import torch

torch.set_num_threads(1)
