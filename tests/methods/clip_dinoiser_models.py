"""Small models of CLIP-DINOiser for its tests."""

import torch

from mmseg_plugins.fixture_weights import fill
from mmseg_plugins.methods.clip_dinoiser.model import CLIPDINOiser
from mmseg_plugins.towers.config import ClipConfig, TextConfig, VisionConfig

SIZES = ClipConfig(
    name="small",
    embed_dim=16,
    vision=VisionConfig(image_size=(32, 32), width=24, layers=4, heads=3, patch=8),
    text=TextConfig(width=16, heads=2, layers=1),
)
TEACHER = {
    "type": "DinoFoundTeacher",
    "dino": {"patch": 8, "width": 16, "layers": 2, "heads": 2, "image_size": 32},
    "found_dino": {"patch": 4, "width": 12, "layers": 2, "heads": 2, "image_size": 32},
    "dino_pretrained": None,
    "found_pretrained": None,
    "found_decoder": None,
}


def build(model=CLIPDINOiser, seed=0, **options):
    """A model with random weights whose probabilities are not all alike."""
    torch.manual_seed(seed)
    defaults = {"vocabulary": {"source": "background; cat; dog, puppy", "templates": ["a {}."]}, "text_cache": False}
    if issubclass(model, CLIPDINOiser):
        defaults |= {"proj_channels": 8, "gamma": 0.3}
    built = model(clip={"model": SIZES}, **{**defaults, **options})
    return built.eval()


def dino_layout(*, patch, width, layers, side):
    """Names and shapes of a published DINO file."""
    sizes = {"norm": (width,), "patch_embed.proj": (width, 3, patch, patch)}
    for index in range(layers):
        sizes |= {f"blocks.{index}.{name}": shape for name, shape in _block_sizes(width).items()}
    layout = {"cls_token": (1, 1, width), "pos_embed": (1, 1 + side * side, width)}
    for name, shape in sizes.items():
        layout |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return layout


def _block_sizes(width):
    return {
        "norm1": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width),
        "norm2": (width,), "mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width),
    }  # fmt: skip


def write_teachers(folder):
    """Write small DINO and FOUND files in their published layouts; returns the teacher's config."""
    for name, sizes in (("dino", TEACHER["dino"]), ("found_vit", TEACHER["found_dino"])):
        layout = dino_layout(
            patch=sizes["patch"],
            width=sizes["width"],
            layers=sizes["layers"],
            side=sizes["image_size"] // sizes["patch"],
        )
        torch.save({key: torch.from_numpy(value) for key, value in fill(layout).items()}, folder / f"{name}.pth")
    generator = torch.Generator().manual_seed(0)
    width = TEACHER["found_dino"]["width"]
    weight = torch.randn(1, width, 1, 1, generator=generator)
    torch.save({"decoder": {"weight": weight, "bias": torch.zeros(1)}}, folder / "found.pt")
    return {
        **TEACHER,
        "dino_pretrained": str(folder / "dino.pth"),
        "found_pretrained": str(folder / "found_vit.pth"),
        "found_decoder": str(folder / "found.pt"),
    }
