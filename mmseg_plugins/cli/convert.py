"""Turn a checkpoint into safetensors, which cannot run code when it is read.

For OpenAI's TorchScript archives, MaskCLIP's converted files, and trainers' .pth and .bin files. Tensors keep their
names; wrappers such as 'state_dict' and 'module.' are removed, everything that is not a tensor is left out.
"""

import argparse
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EXAMPLES = """  mmseg-plugins convert ViT-B-16.pt ViT-B-16.safetensors
  mmseg-plugins convert epoch_20.pth weights.safetensors --overwrite
  mmseg-plugins convert old_pickle.pth weights.safetensors --allow-code"""

_CODE_WARNING = (
    "warning: --allow-code unpickles {}, which runs whatever code stands in it, with your rights. "
    "Only do this with a file whose maker you trust."
)
# Numbers that OpenAI's archives carry beside the weights.
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument("source", metavar="SOURCE", help="file to convert")
    parser.add_argument("target", metavar="TARGET.safetensors", help="file to write")
    parser.add_argument(
        "--allow-code",
        action="store_true",
        help="unpickle the source even if that runs code that stands in it; only for files you trust",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing target")


def run(options: argparse.Namespace) -> int:
    """Convert one file.

    Raises:
        ValueError: if the target is not a safetensors name, or the source cannot be read.
        FileNotFoundError: if the source or the target's folder does not exist.
        FileExistsError: if the target exists and is not to be replaced.
    """
    from mmseg_plugins.api.result import check_writable
    from mmseg_plugins.towers.download import file_sha256
    from mmseg_plugins.towers.files import write_safetensors

    source, target = Path(options.source).expanduser(), Path(options.target).expanduser()
    if target.suffix != ".safetensors":
        raise ValueError(f"{target} must end in .safetensors.")
    if not source.is_file():
        found = "is a folder" if source.is_dir() else "does not exist"
        raise FileNotFoundError(f"{source} {found}. Expected a file of weights (looked in {Path.cwd()}).")
    if target.exists() and not options.overwrite:
        raise FileExistsError(f"{target} exists. Choose another name, or pass --overwrite.")
    if target.parent.is_dir():
        check_writable(target.parent)
    content = _read(source, allow_code=options.allow_code)
    tensors, left_out = _flatten(content)
    layout = _layout(tensors)
    metadata = {"source": source.name, "source_sha256": file_sha256(source), "layout": layout}
    write_safetensors(target, tensors, metadata)
    size = target.stat().st_size / 1e6
    if left_out:
        print(f"left out, not tensors: {', '.join(left_out)}", file=sys.stderr)
    print(f"wrote {target}: {len(tensors)} tensors, {size:.1f} MB, layout {layout}")
    return 0


def _read(source: Path, *, allow_code: bool) -> Mapping[str, Any]:
    import torch

    from mmseg_plugins.towers.files import is_torchscript_file, read_tensors

    if is_torchscript_file(source):
        # The archive's code is compiled, in TorchScript's own language, but none of it is called.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.load")  # there is no other reader of these files
            return torch.jit.load(source, map_location="cpu").state_dict()
    if not allow_code:
        return read_tensors(source)
    print(_CODE_WARNING.format(source), file=sys.stderr)
    content = torch.load(source, map_location="cpu", weights_only=False)
    if isinstance(content, torch.nn.Module):
        return content.state_dict()
    if not isinstance(content, Mapping):
        raise ValueError(f"{source} holds a {type(content).__name__}, expected tensors by name or a module.")
    return content


def _flatten(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the tensors under dotted names, and the names of what is left out."""
    from torch import Tensor

    from mmseg_plugins.towers.files import WRAPPERS, unwrap_state_dict

    left_out: list[str] = []
    while wrapper := next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None):
        left_out += [str(key) for key in content if key != wrapper]
        content = content[wrapper]
    leaves = dict(_leaves(content))
    left_out += [key for key, value in leaves.items() if not isinstance(value, Tensor)]
    tensors = unwrap_state_dict(leaves)
    return {key: value for key, value in tensors.items() if key not in _NOT_WEIGHTS}, left_out


def _leaves(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in content.items():
        name = f"{prefix}{key}"
        found += _leaves(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return found


def _layout(tensors: Mapping[str, Any]) -> str:
    from mmseg_plugins.towers.layouts import detect_layout

    try:
        return detect_layout(tensors)
    except ValueError:
        return "unknown"
