import json

import pytest

from mmseg_plugins.vocabulary.templates import fill, list_templates, load_templates

COUNTS = {"imagenet80": 80, "imagenet85": 85, "imagenet7": 7, "vild14": 14, "catseg_select": 8, "plain": 1}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_the_published_sets(name):
    assert len(load_templates(name)) == len(set(load_templates(name))) == COUNTS[name]


def test_maskclips_set_is_the_80_and_five_in_the_scene():
    assert load_templates("imagenet85")[:80] == load_templates("imagenet80")
    assert load_templates("imagenet85")[80:] == (
        "there is a {} in the scene.",
        "there is the {} in the scene.",
        "this is a {} in the scene.",
        "this is the {} in the scene.",
        "this is one {} in the scene.",
    )


def test_four_of_the_vild_set_have_no_full_stop():
    assert [t for t in load_templates("vild14") if not t.endswith(".")] == list(load_templates("vild14")[1:5])


def test_keys_of_other_projects_stand_for_the_same_sets():
    assert load_templates("sclip") == load_templates("imagenet") == load_templates("imagenet80")
    assert load_templates("vild") == load_templates("vild14")
    assert load_templates("clip_dinoiser_no_templates_laion") == ("a photo of a {}", "a photo of an {}")


@pytest.mark.parametrize("name", list_templates())
def test_every_shipped_set_is_usable(name):
    assert all(template.count("{}") == 1 for template in load_templates(name))


def test_mmsegs_own_sets_are_the_same():
    get_templates = pytest.importorskip("mmseg.utils.get_templates", reason="needs mmseg")
    for key, ours in (("imagenet", "imagenet80"), ("vild", "vild14")):
        assert tuple(get_templates.PREDEFINED_TEMPLATES[key]) == load_templates(ours)


def test_a_template_a_list_and_files(tmp_path):
    assert load_templates("a picture of {}") == ("a picture of {}",)
    assert load_templates(["a {}", "the {}"]) == ("a {}", "the {}")
    text = tmp_path / "mine.txt"
    text.write_text("a {}\n\nthe {}\n")
    listed = tmp_path / "mine.json"
    listed.write_text(json.dumps(["a {}", "the {}"]))
    assert load_templates(text) == load_templates(str(text)) == load_templates(listed) == ("a {}", "the {}")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("imagenet8", KeyError, "unknown template set 'imagenet8'. Did you mean 'imagenet8.'"),
        ([], ValueError, "is empty"),
        (["a {}", "a photo"], ValueError, r"template 2 .*holds '\{\}' 0 times"),
        (["{} and {}"], ValueError, r"holds '\{\}' 2 times"),
        ("{} and {}", ValueError, "exactly once"),
        (["a {}", 3], TypeError, "template 2 of"),
        ({"a": 1}, TypeError, "expected a list of templates"),
        ("none.txt", FileNotFoundError, "template file none.txt does not exist"),
    ],
)
def test_unusable_templates_are_refused(source, error, message):
    with pytest.raises(error, match=message):
        load_templates(source)


def test_names_are_put_in_literally():
    assert fill("a {} {0}.", "aeroplane {x}") == "a aeroplane {x} {0}."
