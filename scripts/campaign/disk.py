"""A small file system in memory that a campaign may fill."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path


def mount(folder: Path, size: int) -> bool:
    """Mount a file system of *size* bytes in memory at *folder*; False where this user may not."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "crawler-campaign", str(folder)]
    try:
        return os.getuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def unmount(folder: Path) -> None:
    """Undo `mount`."""
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


def fill(filler: Path) -> None:
    """Write to *filler* until there is no room."""
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
