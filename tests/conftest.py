"""One thread for every test: two spinning threads per process slow each other down tenfold."""

import torch

torch.set_num_threads(1)
