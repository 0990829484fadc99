"""The daemon's child of one shard. Run by path, with -I -S, in the folder that has the socket.

It hands its own standard input and output, which are the daemon's pipes, to the worker through the
Unix socket and becomes `cat`: the smallest program that is always there. It ends when the worker
closes the socket. No byte of the protocol passes through it, so it can neither slow it down nor
print into it; and the worker reads from the daemon without a copy in between.
"""

import os
import socket

SOCKET = "socket"
CAT = "cat"
HELLO = b"1"


def main() -> None:
    """Hand over, let go of the pipes, wait in little memory."""
    worker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    worker.connect(SOCKET)
    socket.send_fds(worker, [HELLO], [0, 1])
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(worker.fileno(), 0)
    # The daemon waits for the end of both once it is done with us.
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        os.execvp(CAT, [CAT])  # noqa: S606
    except OSError:
        while os.read(0, 1):
            pass


if __name__ == "__main__":
    main()
