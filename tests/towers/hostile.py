"""Files that would run code if they were unpickled."""

import os

import torch


class Intruder:
    """Unpickling an instance makes the given folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def write_hostile(path, mark):
    """A checkpoint that makes ``mark`` when it is unpickled."""
    torch.save({"state_dict": {"weight": torch.zeros(2, 2)}, "meta": Intruder(mark)}, path)
    return path


def write_torchscript(path):
    """A TorchScript archive, with the number that OpenAI's carry beside the weights."""
    model = torch.nn.Linear(3, 2)
    model.register_buffer("input_resolution", torch.tensor(224))
    torch.jit.trace(model, torch.zeros(1, 3)).save(str(path))
    return model
