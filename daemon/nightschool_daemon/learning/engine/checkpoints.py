"""Steps of a training that can be gone on from, in safetensors and JSON: no pickle.

A checkpoint counts from its rename on, when all of it is on the disk. So whoever is killed, at whatever point, finds
the last one that was whole; one that the disk tore nevertheless is left out.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nightschool_daemon.disk import sync
from nightschool_daemon.jobs import write_durably
from nightschool_daemon.learning.engine.adam import Adam

logger = logging.getLogger(__name__)

PARAMETERS, MOMENTS, STATE = "form.safetensors", "optimizer.safetensors", "state.json"
NAME = re.compile(r"step-(\d+)-epoch-(\d+)")
OF_SYSTEM = re.compile(r"\(os error (\d+)\)")
"""What the library that writes tensors says of the system's own errors."""
DESCRIPTION_BYTES = 160
"""Of a tensor in the head of a safetensors file, beside its name, at most."""


@dataclass(frozen=True, kw_only=True)
class State:
    """How far a training is; what a checkpoint holds besides tensors."""

    epoch: int = 0
    step_of_epoch: int = 0
    step: int = 0
    tokens: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    """The step that left what has that loss; 0: none did yet."""
    watched: Sequence[float] = ()
    """The loss of what is watched after each epoch."""
    base_loss: float = math.nan
    start_loss: float = math.nan
    """The loss of what is watched where this training began: another than the base's where it goes on."""
    seconds: float = 0.0
    is_over: bool = False
    places: Sequence[int] = ()
    """Of the examples of this epoch, as far as they are arranged, in order."""
    evaluated: int = 0
    """So many of them were learned from before the loss was last taken."""
    stage: str = ""
    """Of what was arranged last; empty: nobody arranged it."""
    reason: str = ""
    """Why it has come to this stage; empty: nobody told."""
    losses: Sequence[float] = ()
    """The loss of what is watched after each stretch."""
    seen: Sequence[int] = ()
    """How often each example was learned from before this epoch; empty: none was."""
    has_seen_all: bool = False
    """An epoch is behind it that saw every example."""
    smoothed: float = math.nan
    """The loss of the last batches, what is further back less and less."""
    far_steps: int = 0
    """So many steps in a row, that was far above the loss where it began."""
    cut_short: str = ""
    """Why it ended before its last step, in a sentence; empty: it did not."""


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The last kept step."""

    directory: Path
    signature: str
    """What the training is made of: a checkpoint of another is not gone on with."""

    def keep(self, parameters: Mapping[str, Tensor], optimizer: Adam, state: State) -> None:
        """Keep a step; those before go when this one is whole."""
        place = self.directory / f"step-{state.step}-epoch-{state.epoch}"
        whole = self.directory / f".{place.name}.tmp"
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir(parents=True)
        save_tensors(parameters, whole / PARAMETERS)
        save_tensors(optimizer.moments(), whole / MOMENTS)
        write_durably(whole / STATE, json.dumps({"signature": self.signature, "state": vars(state)}))
        _discard(place)
        whole.rename(place)
        sync(self.directory)
        self._discard_all_but(place)

    def bytes_at_once(self, parameters: Mapping[str, Tensor]) -> int:
        """What a training takes of the disk at its height: two steps, until the new one is whole, and the best epoch.

        What it leaves at its end has the room of a step that is gone by then.
        """
        sizes = {name: int(one.nbytes) + len(name) + DESCRIPTION_BYTES for name, one in parameters.items()}
        every = sum(sizes.values())
        moments = 2 * sum(sizes[name] for name, one in parameters.items() if one.requires_grad)
        return 2 * (every + moments) + every

    def restore(self, parameters: Mapping[str, Tensor], optimizer: Adam) -> State | None:
        """Go on from the newest whole step that was made from the same job; None: there is none.

        All others go, and what a kill left half written: beside them there is no room for two. Raises `OSError` where
        the disk does not let one be read, and keeps all.
        """
        from safetensors import SafetensorError

        for place in self._newest_first():
            try:
                kept = json.loads((place / STATE).read_bytes())
                if kept["signature"] != self.signature:
                    continue
                state, values, moments = State(**kept["state"]), load(place / PARAMETERS), load(place / MOMENTS)
                # nothing is taken over of one that does not fit in all its parts
                optimizer.require_fit(moments)
                put(parameters, values)
                optimizer.remember(moments)
            except (FileNotFoundError, ValueError, KeyError, TypeError, SafetensorError) as error:
                # another fault of the disk, or of memory, is no reason to lose what was learned
                logger.warning("The checkpoint %s is not whole, so it is left out: %s", place, error)
                continue
            self._discard_all_but(place)
            return state
        self._discard_all_but(None)
        return None

    def _discard_all_but(self, place: Path | None) -> None:
        for other in self.directory.glob("*"):
            if other.is_dir() and other != place:
                _discard(other)

    def _newest_first(self) -> Iterator[Path]:
        found = [(match, place) for place in self.directory.glob("*") if (match := NAME.fullmatch(place.name))]
        for _, place in sorted(found, key=lambda one: tuple(map(int, one[0].groups())), reverse=True):
            yield place


def save_tensors(values: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors: whole and on the disk, or not there. Raises `OSError`."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    temporary = unfinished(file)
    try:
        save_file({name: one.detach().contiguous() for name, one in values.items()}, temporary)
    except SafetensorError as error:
        # half of it would keep a full disk full
        temporary.unlink(missing_ok=True)
        number = OF_SYSTEM.search(str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error), str(file)) from error
    sync(temporary)
    temporary.replace(file)
    sync(file.parent)


def unfinished(file: Path) -> Path:
    """Where tensors are written before they are whole."""
    return file.with_name(f".{file.name}.tmp")


def load(file: Path) -> dict[str, Tensor]:
    """Read tensors."""
    from safetensors.torch import load_file

    found: dict[str, Tensor] = load_file(file)
    return found


def put(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Set parameters. Raises `ValueError` where they do not fit."""
    if {name: one.shape for name, one in parameters.items()} != {name: one.shape for name, one in values.items()}:
        raise ValueError("it holds other parameters than are trained")
    with torch.no_grad():
        for name, one in parameters.items():
            one.copy_(values[name])


def _discard(place: Path) -> None:
    """Remove a checkpoint. Its state goes first, for without it the rest is none."""
    (place / STATE).unlink(missing_ok=True)
    shutil.rmtree(place, ignore_errors=True)
