"""Scripts in processes of their own, forked from one that has torch loaded, so that a start takes no time.

They can be killed, given a slow disk, and made to be several as torchrun makes them.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path

import conftest  # noqa: F401  # which turns the choice of precision where that is asked for
import torch

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["conftest", "train", "evaluate", "inference", "torch._dynamo"])  # for fake tensors


def launch(name, *arguments, cwd, slow_disk=0.0, group=False, **environment):
    """Start `python src/NAME.py ARGUMENTS` in the folder cwd; what it says goes to cwd/NAME.log. -> the process."""
    process = FORKS.Process(target=enter, args=(name, [*map(str, arguments)], str(cwd), slow_disk, environment, group))
    process.start()
    return process


def launch_pair(name, *arguments, cwd):
    """Two processes that share the work, as `torchrun --nproc_per_node 2` starts them; the first one's log is kept."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [launch(name, *arguments, cwd=cwd, RANK=str(rank), LOCAL_RANK=str(rank), **together) for rank in range(2)]


def finish(*processes, expect=0, log=None, seconds=240):
    """Wait for processes to end with the exit status `expect`."""
    for process in processes:
        process.join(seconds)
        assert process.exitcode == expect, (process.exitcode, Path(log).read_text() if log else "")


def enter(name, arguments, cwd, slow_disk, environment, group):
    if group:
        os.setpgid(0, 0)
    os.chdir(cwd)
    os.environ.update(environment)
    log = "second.log" if environment.get("RANK") == "1" else f"{name}.log"
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    encoding = os.environ.get("STREAM_ENCODING")
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, encoding=encoding) for number in (1, 2))
    sys.argv = [f"src/{name}.py", *arguments]
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    if slow_disk:
        slow_down(slow_disk)
    if "STUCK_DECODER" in os.environ:
        get_stuck()
    module = __import__(name)
    module.run(module.main)


def slow_down(seconds):
    """Make each write to the disk wait, before it and after, so that a kill finds many a file half done."""
    for name in ("fsync", "replace"):
        quick = getattr(os, name)

        def slow(*args, quick=quick):
            time.sleep(seconds)
            quick(*args)
            time.sleep(seconds)

        setattr(os, name, slow)


def get_stuck():
    """Make each picture take minutes to decode, in a thread that hears of no signal; STUCK_DECODER is made first."""
    import photos.pictures

    def wait(picture):
        Path(os.environ["STUCK_DECODER"]).touch()
        time.sleep(300)

    photos.pictures.load = wait


def logged(function, argument, log):
    """Call a function in a process whose output goes to the file `log`."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    function(argument)
