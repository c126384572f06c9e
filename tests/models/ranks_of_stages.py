"""Trains every stage by two processes, as torchrun would start them: `python -m tests.models.ranks_of_stages STORE`.

Prints, as JSON, `<system>-<stage>` -> names of the tensors that two steps have changed; fails where the weights of the
two processes differ.
"""

import json
import os
import socket
import sys
from pathlib import Path

import torch

from models.training.engine.distributed import joined_ranks
from storage.snapshot import Snapshot
from tests.models.small_stages import cases, learned, make_engine, own_settings

NUM_STEPS = 2


def main(store: Path) -> int:
    """Forks the second process; its exit status counts, too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    child = os.fork()
    rank = "0" if child else "1"
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(place)
    changed = train(Snapshot.open(store))
    if not child:
        os._exit(0)
    print(json.dumps(changed))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(snapshot: Snapshot) -> dict[str, list[str]]:
    """All stages one after the other, in this process and the other one."""
    torch.set_num_threads(1)
    ranks, changed = joined_ranks(), {}
    for system, name in cases():
        engine = make_engine(system, name, snapshot, ranks, **own_settings(system, "RANKS").get(name, {}))
        changed[f"{system}-{name}"] = sorted(learned(engine, NUM_STEPS))
        engine.require_equal_ranks()
    return changed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
