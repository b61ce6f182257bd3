"""How a run starts: resumed where it stopped, repeated from the start, or refused."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest
import torch
from lightning import Callback
from omegaconf import OmegaConf

from pneumonia.errors import PneumoniaError
from pneumonia.evaluation.result import METRICS
from pneumonia.model.checkpoint import read_checkpoint
from pneumonia.training.stop import Stopped


class SignalTest(Callback):
    """Sends the run a signal at a batch of an epoch, when it comes there for the first time."""

    number = signal.SIGTERM

    def __init__(self, epoch, batch, times=1):
        self.place = (epoch, batch)
        self.times = times

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.place:
            for _ in range(self.times):
                signal.raise_signal(self.number)


class InterruptTest(SignalTest):
    number = signal.SIGINT


class RequeueTest(SignalTest):
    number = signal.SIGUSR1


class CrashTest(Callback):
    """Stands for the power cut, between two epochs."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch and not os.environ.get("MENDED"):
            raise KeyError("power cut")
