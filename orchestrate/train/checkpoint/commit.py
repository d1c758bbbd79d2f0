"""Files that are on the disk when they are said to be, and the moment from which a checkpoint counts."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from orchestrate.train.checkpoint.format import CHECKSUMS, STATE, Checksum, State, checksums_json
from orchestrate.train.checkpoint.keep import discard


def commit(partial: Path, final: Path, state: State, files: dict[str, Checksum]) -> None:
    """Add state and checksums to the written ``partial`` and let it be ``final`` from one moment to the next.

    Args:
        files: what has been written, flushed to the disk, with checksums of what it should be.

    Raises:
        OSError: something could not be written; ``final`` is as it was.
    """
    with create(partial / STATE) as stream:
        stream.write(state.to_json().encode())
    with create(partial / CHECKSUMS) as listing:
        listing.write(checksums_json({**files, STATE: stream.checksum}).encode())
    sync_folder(partial)
    if final.exists():
        # The same step once more, after going back: a folder takes the place of an empty one alone.
        discard(final)
    partial.rename(final)
    sync_folder(final.parent)


def sync_folder(path: Path) -> None:
    """Have the names in ``path`` on the disk, not only what the files hold."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Hashed(io.RawIOBase):
    """A file that is written from its beginning to its end, and knows what it should hold then."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.blake2b(digest_size=16)
        self.size = 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._digest.update(view)
        try:
            self._file.write(view)
        except OSError as error:
            self.error = error  # torch.save makes something else of it
            raise
        self.size += len(view)
        return len(view)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    @property
    def checksum(self) -> Checksum:
        return Checksum(self.size, self._digest.hexdigest())


@contextlib.contextmanager
def create(path: Path) -> Iterator[Hashed]:
    """A new file; on the disk when the block ends."""
    with path.open("wb") as file:
        stream = Hashed(file)
        yield stream
        file.flush()
        os.fsync(file.fileno())
