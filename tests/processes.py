"""Commands in separate processes, which tests can kill; also in pairs, as torchrun starts them.

The processes are forked from one that has torch loaded, so they start at once.
"""

import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path

import conftest  # noqa: F401  # sets what --precision auto chooses
import torch

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["conftest", "train", "evaluate", "inference"])


def launch(name, *arguments, cwd, setup=None, **environment):
    """Start `python src/NAME.py ARGUMENTS` in the folder cwd; its output goes to cwd/NAME.log. Return the process.

    setup: a module-level function, called in the process before the command.
    """
    process = FORKS.Process(target=enter, args=(name, [*map(str, arguments)], str(cwd), setup, environment))
    process.start()
    return process


def launch_pair(name, *arguments, cwd, setup=None):
    """Start two processes as `torchrun --nproc_per_node 2` does; the second one's output goes to cwd/second.log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [{"RANK": rank, "LOCAL_RANK": rank, **group} for rank in ("0", "1")]
    return [launch(name, *arguments, cwd=cwd, setup=setup, **environment) for environment in ranks]


def finish(*processes, expect=0, log=None, seconds=240):
    """Wait for processes to end with the exit status `expect`, and return their log."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    text = Path(log).read_text() if log else ""
    found = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert set(found) == {expect}, (found, text)
    return text


def wait_for(condition, *processes, log=None, seconds=120):
    """Wait until `condition()` holds while processes are running. Fail if one ends, or at the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        running = all(process.exitcode is None for process in processes)
        assert running and time.monotonic() < deadline, Path(log).read_text() if log else "not within the deadline"
        time.sleep(0.01)


def enter(name, arguments, cwd, setup, environment):
    os.chdir(cwd)
    os.environ.update(environment)
    redirect("second.log" if environment.get("RANK") == "1" else f"{name}.log")
    sys.argv = [f"src/{name}.py", *arguments]
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    if setup:
        setup()
    module = __import__(name)
    module.run(module.main)


def redirect(log):
    """Append what this process prints to the file `log`."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))


def logged(function, argument, log):
    """Call a function in a process whose output goes to the file `log`."""
    redirect(log)
    function(argument)
