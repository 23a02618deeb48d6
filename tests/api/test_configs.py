import pytest

from mmseg_plugins.api import configs
from mmseg_plugins.api.configs import find_config, find_pretrained, list_pretrained


def test_every_named_model_has_its_config():
    for model in list_pretrained():
        assert find_config(model.config).stem == model.config


def test_names_are_unique_and_aliases_lead_to_them():
    names = [name for model in list_pretrained() for name in (model.name, *model.aliases)]
    assert len(names) == len(set(names))
    assert find_pretrained("MaskCLIP_ViT-B-16").name == "maskclip-vit-b16"


def test_unknown_model_lists_what_there_is():
    with pytest.raises(KeyError, match=r"Did you mean 'maskclip-shapes'.*Available: maskclip-shapes"):
        find_pretrained("maskclip-shape")
    with pytest.raises(KeyError, match="from_config"):
        find_pretrained("???")


def test_configs_are_found_by_path_stem_and_folder(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("model = dict()")
    assert find_config(mine) == mine
    stem = "maskclip_shapes-vit_shapesworld-64x64"
    assert find_config(stem) == find_config(f"{stem}.py") == find_config(f"maskclip/{stem}")


def test_installed_packages_keep_their_configs_inside(tmp_path, monkeypatch):
    folder = tmp_path / "package" / ".mim" / "configs"
    (folder / "_base_").mkdir(parents=True)
    (folder / "_base_" / "thing.py").write_text("")
    (folder / "method").mkdir()
    (folder / "method" / "thing.py").write_text("")
    monkeypatch.setattr(configs, "_PACKAGE", tmp_path / "package")
    assert find_config("thing") == folder / "method" / "thing.py"


def test_unknown_config_shows_near_names_and_where_it_looked():
    with pytest.raises(FileNotFoundError, match=r"Did you mean '.*_vit-b16_ade20k'.*Looked in: .*configs"):
        find_config("maskclip_vit-b16_ade20k")
