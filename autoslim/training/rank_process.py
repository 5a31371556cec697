"""The process of a rank behind the first: `python -m autoslim.training.rank_process DESCRIPTOR`, started by `ranks.LeadingRank`.

It trains the segments that rank 0 names, and knows neither recipes nor checkpoints. DESCRIPTOR is its end of the pipe to rank 0.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection

import torch

from autoslim.core.logs import log_json
from autoslim.errors import AutoslimError, RankLostError
from autoslim.training.context import TrialContext
from autoslim.training.loop import Trainer
from autoslim.training.phase import unpack
from autoslim.training.rank_group import RankGroup
from autoslim.training.ranks import RankStart, RunPhase


def main() -> None:
    # A Ctrl-C in the terminal, and the SIGTERM that Slurm sends to all processes of a node that it takes back, are for rank 0, which keeps
    # a checkpoint that all ranks have a part in, and ends this process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_rank_0, daemon=True).start()
    log_json()
    connection = Connection(int(sys.argv[1]))
    try:
        _serve(connection, connection.recv())
    except EOFError:
        # Rank 0 has closed the pipe: there is nothing more to train.
        return
    except RankLostError:
        # Another rank's error, which that one has sent, or rank 0 has.
        sys.exit(1)
    except AutoslimError as error:
        connection.send(error)
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - this process ends here, and rank 0 raises what it is sent
        connection.send(RuntimeError("in another rank:\n" + "".join(traceback.format_exception(error))))
        sys.exit(1)


def _end_with_rank_0() -> None:
    """Ends this process when rank 0 has ended, even where it waits for it in the middle of a step."""
    sys.stdin.buffer.read()
    os._exit(1)


def _serve(connection: Connection, start: RankStart) -> None:
    torch.set_num_threads(start.threads)
    device = torch.device("cuda", start.rank) if start.cuda else torch.device("cpu")
    if start.cuda:
        torch.cuda.set_device(device)
    opened = TrialContext.open(base=start.base, dataset=start.dataset, teacher=start.teacher, device=device)
    context = dataclasses.replace(opened, group=RankGroup(start.rank, start.ranks))
    connection.send(None)
    start.join()
    trainer: Trainer | None = None
    while True:
        message = connection.recv()
        if isinstance(message, RunPhase):
            # The former phase's memory first.
            del trainer
            trainer = unpack(context, message.phase)
        else:
            assert trainer is not None
            trainer.train_segment(message.index, message.steps)


if __name__ == "__main__":
    main()
