"""One thread a process: the models are so small that several threads, on a machine with other work, take twenty times as long."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
