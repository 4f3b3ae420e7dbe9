"""`completions.jsonl`: a line for every recording, written from the ledger after its sync, in the order of `seq`."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

import msgspec

from crawler.broker.ledger import Ledger
from crawler.errors import StorageFailed
from crawler.model import Outcome

log = logging.getLogger(__name__)

#: Lines written at a time.
BATCH = 1000
#: Seconds between two looks for new records.
TICK = 0.1
#: Seconds after which a file that could not be written is tried again.
PAUSE = 1.0
#: Bytes looked at from the end of the file to find the last line.
TAIL = 1 << 20


class _Seq(msgspec.Struct):
    seq: int


_decode = msgspec.json.Decoder(_Seq).decode
_encode = msgspec.json.Encoder().encode


class CompletionLog:
    """
    The file, and the thread that writes it.

    Args:
        path: The file. A torn last line is cut, what is missing is appended.
        ledger: What was recorded.

    Raises:
        StorageFailed: The file cannot be written.
    """

    def __init__(self, path: Path, ledger: Ledger) -> None:
        self._path = path
        self._ledger = ledger
        try:
            self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
            self._seq = _mend(self._file)
        except OSError as error:
            raise StorageFailed(f"{path} cannot be written: {error.strerror}") from error
        self._trouble: Exception | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="completions", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Write what is missing, and close the file."""
        self._closing.set()
        self._thread.join()
        self._file.close()

    def _run(self) -> None:
        last = False
        while not last:
            last = self._closing.wait(TICK)
            try:
                while self._write():
                    pass
                self._trouble = None
            except StorageFailed:  # whoever runs the ledger is told by it; the next start appends what is missing
                return
            except (OSError, sqlite3.Error) as error:
                # The ledger has it all: it is tried again, and the next start appends what is missing then.
                if self._trouble is None:
                    log.warning("%s cannot be written (%s); trying again", self._path, error)
                self._trouble = error
                self._closing.wait(PAUSE)

    def _write(self) -> bool:
        records = self._ledger.view.records(self._seq, BATCH)
        if records:
            self._ledger.await_sync()  # no line of what a power cut takes back
            whole = self._file.tell()
            data = b"".join(_encode(record) + b"\n" for record in records)
            if self._file.write(data) != len(data):
                self._file.seek(whole)
                self._file.truncate()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._seq = records[-1].seq
        if log.isEnabledFor(logging.INFO):
            for record in records:
                ended = "completed!" if record.outcome is Outcome.STORED else f"failed: {record.reason}"
                log.info("%s ------> %s", record.url, ended)
        return len(records) == BATCH


def _mend(file: Any) -> int:
    """Cut a torn last line; return the `seq` of the last whole one, and leave the file at its end."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL))
    tail = file.read()
    end = tail.rfind(b"\n") + 1
    last = tail[:end].rstrip(b"\n").rpartition(b"\n")[2]
    try:
        seq = _decode(last).seq if last else 0
    except msgspec.MsgspecError:  # not a file of ours any more: write it anew
        seq = 0
    file.truncate(max(0, size - len(tail)) + end if seq else 0)
    file.seek(0, os.SEEK_END)
    return seq
