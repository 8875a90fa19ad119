"""What each epoch of a stage came to: record-keeper's CSV and SQLite files, TensorBoard, other services."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType

import record_keeper
from torch.utils.tensorboard import SummaryWriter

from .tracking import Tracking


class Records:
    """The records of a stage, as a context that ends them.

    The files are written again from the history at the start: rows that a killed run wrote after its last
    checkpoint would otherwise be there twice.

    Args:
        folder: of the stage; the files lie in `records`.
        name: of the stage, for people.
        history: figures of the epochs so far.
        tracking: where records go besides these files.
    """

    def __init__(self, folder: Path, name: str, history: list[dict[str, float]], tracking: Tracking) -> None:
        files = folder / "records"
        shutil.rmtree(files, ignore_errors=True)
        self.board = SummaryWriter(str(files / "tensorboard")) if "tensorboard" in tracking.log_to else None
        self.keeper = record_keeper.RecordKeeper(
            tensorboard_writer=self.board, record_writer=record_keeper.RecordWriter(str(files))
        )
        self.trackers = tracking.begin(name, folder)
        for row in history:
            self.add(row)

    def add(self, row: dict[str, float]) -> None:
        """Record an epoch."""
        epoch = int(row["epoch"])
        for name, value in row.items():  # update_records differs between versions, this does not
            self.keeper.append_data("training", name, value, epoch)
        self.keeper.save_records()
        for tracker in self.trackers:
            tracker.log(row, epoch)

    def __enter__(self) -> Records:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.board is not None:
            self.board.close()
        for tracker in self.trackers:
            tracker.close(complete=kind is None)
