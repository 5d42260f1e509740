"""Does memory grow while a neural ODE is trained? 2,000 steps by each gradient method, in a process of its own.

    python benchmarks/training_memory.py [name ...]

Prints what is allocated and in RAM after 50 steps and after all, in MiB; the bar is 1 MiB of growth. Linux with glibc.
The pages of files do not count: code that runs for the first time, as a solve comes to take more steps, is no growth.
A full collection now and then empties CPython's lists of freed tuples, which would grow to a mebibyte by themselves.
Before memory is read, the allocator gives back what it keeps of freed memory; the growth with that is printed too.
"""

import ctypes
import gc
import subprocess
import sys

import torch

from side_by_side import memory
from thalweg.gradients import GRADIENTS
from thalweg.nn import MLPField, NeuralODE

WARM, STEPS, BAR = 50, 2000, 1.0


def allocated() -> float:
    """The memory in RAM that is of no file, in MiB, once the allocator has given back what is free."""
    ctypes.CDLL(None).malloc_trim(0)
    return allocated_with_free()


def allocated_with_free() -> float:
    """The memory in RAM that is of no file, in MiB."""
    return memory("RssAnon") / 2**20


def train(name: str) -> None:
    """Train, and print the memory on the way."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    field = MLPField(2, width=4 if name == "forward" else 16, depth=1)  # forward mode is for few numbers
    flow = NeuralODE(field, gradient=name, rtol=1e-2, atol=1e-2)
    optimizer = torch.optim.Adam(flow.parameters(), 1e-3)
    x = torch.randn(32, 2)
    for step in range(1, STEPS + 1):
        loss = (flow(x) - x.flip(-1)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % WARM == 0:
            gc.collect()
        if step in (WARM, STEPS):
            print(allocated_with_free(), allocated(), flush=True)


def main() -> None:
    """Each method in a process of its own."""
    if sys.argv[1:2] == ["--train"]:
        train(sys.argv[2])
        return
    print(f"{'gradient':16}{WARM:>10}{STEPS:>10}{'growth':>10}{'with free':>12}   MiB")
    for name in sys.argv[1:] or GRADIENTS:
        run = [sys.executable, __file__, "--train", name]
        printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout
        free_before, before, free_after, after = map(float, printed.split())
        verdict = "" if after - before <= BAR else f"   more than {BAR:g}"
        growths = f"{after - before:10.2f}{free_after - free_before:12.2f}"
        print(f"{name:16}{before:10.2f}{after:10.2f}{growths}{verdict}", flush=True)


if __name__ == "__main__":
    main()
