"""Fits the toy in a process of its own, with the faults that the argument asks for; `python -m tests.models.driver JSON`.

The argument: {"store": path, "train": {...}, "changes": {...}, "fault": {...}}. Faults:

    {"kill_step": 5, "rank": 1, "once": path}    SIGKILL before this step; with `once` only if that file is not there
    {"kill_worker": 3}                           the process that loads item 3 kills itself
    {"pause_s": 0.1}                             each step takes this much longer
    {"sweep": [2, 9, ...]}                       one child after the other is killed at its n-th operation on the disk

Prints a line "step N" per step when "is_chatty", at the end the record; exits as the talkset command would. With
"ranks": 2 it is two processes, as torchrun would start them. Each rank leaves a hash of its weights in the store.
"changes" are other values of the config; for each of "more" it fits once more in the same processes.
"""

import hashlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from models.data.clip_dataset import ClipDataset
from models.training.engine.errors import Interrupted
from models.training.runs import checkpoint, fit, loop
from models.training.runs.environment import packages_sha256
from storage.errors import LockedError, TalksetError
from tests.models import toy

EXIT_FAILED, EXIT_LOCKED = 1, 4


def main(options):
    toy.install()
    fault = options.get("fault", {})
    if "sweep" in fault:
        return sweep(options, fault["sweep"])
    if options.get("ranks"):
        return fork_ranks(options, options["ranks"])
    _install(options, fault)
    try:
        for changes in (options.get("changes", {}), *options.get("more", ())):
            record = toy.fit_toy(Path(options["store"]), train=options.get("train"), **changes)
    except Interrupted as stopped:
        return stopped.exit_code
    except LockedError as error:
        print(error, file=sys.stderr)
        return EXIT_LOCKED
    except TalksetError as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    if os.environ.get("RANK", "0") == "0":
        print(record.model_dump_json(), flush=True)
    return 0


def sweep(options, kills):
    """One child after the other fits the same run; each is killed at its n-th operation. Prints steps of the states."""
    from torch.utils.tensorboard import SummaryWriter  # noqa: F401  # once here instead of in every child

    packages_sha256()
    steps = []
    for number in kills:
        child = os.fork()
        if child == 0:
            _kill_at_operation(number)
            os._exit(main({**options, "fault": {}}))
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, f"kill {number}: {status}"
        steps.append(_newest_step(Path(options["store"])))
    print(json.dumps(steps))
    return 0


def fork_ranks(options, num):
    """As torchrun without its agent, which would import everything once more per process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(num):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        child = os.fork()
        if child == 0:
            os.environ.update({name: str(value) for name, value in place.items()})
            os._exit(main({**options, "ranks": 0}))
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return max(codes, key=abs)


def _newest_step(store):
    """Step of the state that a resume would begin with; every checkpoint that the record names must be whole."""
    records = [toy.RunRecord.model_validate_json(path.read_bytes()) for path in store.glob("runs/*/run.json")]
    for record in records:
        for entry in record.checkpoints[-2:]:
            folder = toy.run_folder(store, record.id)
            # A newer save may have pruned it before the record was brought up to date.
            assert checkpoint.is_intact(folder, entry) or checkpoint.load_state(folder)[0].step > entry.step, entry
    found = checkpoint.load_state(toy.run_folder(store, records[0].id)) if records else None
    return found[0].step if found else 0


def _kill_at_operation(number):
    """SIGKILL in place of the n-th sync, rename or removal, or halfway through it when it writes tensors."""
    left = [number]

    def counted(function, halfway=None):
        def replaced(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                if halfway:
                    halfway(*args)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return replaced

    def write_half(tensors, path, metadata):
        Path(path).write_bytes(save(tensors, metadata)[:-100])

    from safetensors.torch import save

    checkpoint.save_file = counted(checkpoint.save_file, write_half)
    os.fsync = counted(os.fsync)
    Path.replace = counted(Path.replace)
    Path.unlink = counted(Path.unlink)


def _install(options, fault):
    step = loop.Engine.advance

    def advance(self, batch):
        time.sleep(fault.get("pause_s", 0))
        is_here = self.ranks.rank == fault.get("rank", 0) and not Path(fault.get("once", "/nowhere")).exists()
        if self.step == fault.get("kill_step") and is_here:
            if "once" in fault:
                Path(fault["once"]).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        step(self, batch)
        if options.get("is_chatty"):
            print("step", self.step, flush=True)

    loop.Engine.advance = advance
    fit.train = _hashing(fit.train, Path(options["store"]))
    if "kill_worker" in fault:
        read = ClipDataset.__getitem__

        def getitem(self, index):
            if index == fault["kill_worker"]:
                os.kill(os.getpid(), signal.SIGKILL)
            return read(self, index)

        ClipDataset.__getitem__ = getitem


def _hashing(train, store):
    def train_and_hash(engine, run, *rest):
        train(engine, run, *rest)
        digest = hashlib.sha256()
        for module in engine.learner.modules.values():
            for weight in module.parameters():
                digest.update(weight.detach().numpy().tobytes())
        (store / f"{run.name}-rank-{engine.ranks.rank}").write_text(digest.hexdigest())

    return train_and_hash


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
