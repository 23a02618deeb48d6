"""Several processes on the CPU: how a tool leaves its process group."""

import subprocess
import sys

from mmseg_plugins.engine.cpu_distributed import leave_process_group

WORK = """
import atexit, torch
from mmseg_plugins.engine.cpu_distributed import leave_process_group
torch.distributed.init_process_group("gloo")
wrapped = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
wrapped(torch.ones(1, 2)).sum().backward()
atexit.register(print, "exit handler")
print("buffered", end=" ")
leave_process_group()
print("not reached")
"""


def test_a_process_leaves_with_its_exit_handlers_and_buffers_done():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    command += ["--nproc_per_node=1", "--no-python"]
    done = subprocess.run(
        [*command, sys.executable, "-c", WORK], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "buffered exit handler\n"


def test_without_a_process_group_the_process_goes_on():
    assert leave_process_group() is None
