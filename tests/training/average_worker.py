"""Un rang qui moyenne ses gradients ; le rang 1 n'en a pas, faute d'une perte finie."""

import sys

import torch
import torch.distributed as dist

from gpt_architecture.training.distributed.parallel import average_gradients_

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
model = torch.nn.Linear(3, 2)
if rank == 0:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
average_gradients_(model)
loss = torch.tensor([1.0 if rank == 0 else float("nan")])
dist.all_reduce(loss)  # l'échange suivant reste accordé
assert torch.isnan(loss)
assert all((parameter.grad == 0.5).all() for parameter in model.parameters())
dist.barrier()
dist.destroy_process_group()
print("accordés")
