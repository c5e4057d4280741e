"""
kombu's broker in a folder, with messages that are there whole or not at all: its own lets a worker take a file that is
still being written, and with it goes the task.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import filesystem
from kombu.utils.json import dumps


class Channel(filesystem.Channel):
    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:  # type: ignore[override]
        folder = Path(self.data_folder_out)
        # The time first, as workers take them in the order of their names.
        name = f"{round(time.monotonic() * 1000)}_{uuid.uuid4()}.{queue}.msg"
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix="new", suffix=".part", delete=False) as file:
            file.write(dumps(payload))  # type: ignore[no-untyped-call]
        Path(file.name).rename(folder / name)


class Transport(filesystem.Transport):
    Channel = Channel
