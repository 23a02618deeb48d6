import pytest

from mmseg_plugins import Vocabulary
from mmseg_plugins.vocabulary.benchmarks import (
    ALIASES,
    benchmark_rows,
    find_benchmark,
    list_benchmarks,
    load_benchmark,
    name_lists,
)

CLASSES_AND_NAMES = {
    "ade20k_150": (150, 403),
    "ade20k_847": (847, 1342),
    "context59": (59, 160),
    "context459": (459, 559),
    "voc21": (21, 153),
    "voc20": (20, 79),
    "coco_stuff_171": (171, 328),
    "coco_panoptic_133": (133, 254),
    "cityscapes_19": (19, 60),
    "lvis_1203": (1203, 1825),
    "mapillary_vistas_65": (65, 153),
}


@pytest.mark.parametrize("key", CLASSES_AND_NAMES)
def test_class_and_word_counts_of_the_fcclip_lists(key):
    vocabulary = Vocabulary.from_benchmark(key, "synonyms_fcclip")
    assert (vocabulary.num_classes, len(vocabulary.rows)) == CLASSES_AND_NAMES[key]


def test_one_row_of_voc21_is_the_background_list():
    assert len(Vocabulary.from_benchmark("voc21", "synonyms_fcclip").prompts[0]) == 74


@pytest.mark.parametrize(("key", "things"), [("ade20k_150", 100), ("coco_panoptic", 80), ("coco_stuff", 80)])
def test_thing_flags(key, things):
    assert sum(Vocabulary.from_benchmark(key).is_thing) == things


def test_a_benchmark_without_flags_says_so():
    assert Vocabulary.from_benchmark("ade20k_847").is_thing is None


@pytest.mark.parametrize("key", list_benchmarks())
def test_every_benchmark_and_list_becomes_a_vocabulary(key):
    content = load_benchmark(key)
    assert content["count"] == len(content["classes"])
    assert content["source"]
    for names in name_lists(key):
        vocabulary = Vocabulary.from_benchmark(key, names)
        assert vocabulary.num_classes == content["count"]
        assert all(name == " ".join(name.split()) for name in vocabulary.rows)
        if "palette" in content:
            assert [list(colour) for colour in vocabulary.palette] == content["palette"]


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_stand_for_a_benchmark(alias):
    assert find_benchmark(alias) in list_benchmarks()


def test_lists_that_drop_the_class_name_are_kept():
    vocabulary = Vocabulary.from_benchmark("ade20k_150", "synonyms_fcclip")
    house = vocabulary.index("house")
    assert "house" not in vocabulary.prompts[house]
    assert vocabulary.groups["house"] == vocabulary.prompts[house]


def test_stray_blanks_are_stripped_for_prompts_and_kept_in_the_file():
    assert load_benchmark("ade20k_150")["classes"][7] == "bed "
    vocabulary = Vocabulary.from_benchmark("ade20k_150")
    assert vocabulary.prompts[7] == ("bed",)
    assert vocabulary.index("bed ") == vocabulary.index("bed") == 7


def test_class_names_with_commas_stay_one_prompt():
    assert Vocabulary.from_benchmark("ade20k_847").prompts[1] == ("building, edifice",)


def test_the_content_handed_out_is_the_callers_own():
    load_benchmark("voc20")["classes"].clear()
    assert len(load_benchmark("voc20")["classes"]) == 20


def test_unknown_benchmarks_and_lists_say_what_there_is():
    with pytest.raises(KeyError, match="unknown benchmark 'voc22'. Did you mean 'voc2.'") as caught:
        load_benchmark("voc22")
    assert all(key in str(caught.value) for key in list_benchmarks())
    with pytest.raises(KeyError, match=r"'synonyms_fclip'. Did you mean 'synonyms_fcclip'\? Available: classes, "):
        benchmark_rows("voc20", "synonyms_fclip")


@pytest.mark.parametrize(
    ("key", "dataset"),
    [
        ("ade20k_150", "ADE20KDataset"),
        ("voc21", "PascalVOCDataset"),
        ("context59", "PascalContextDataset59"),
        ("context60", "PascalContextDataset"),
        ("coco_stuff_171", "COCOStuffDataset"),
        ("cityscapes_19", "CityscapesDataset"),
    ],
)
def test_classes_and_colours_are_mmsegs(key, dataset):
    datasets = pytest.importorskip("mmseg.datasets", reason="needs mmseg")
    meta = getattr(datasets, dataset).METAINFO
    content = load_benchmark(key)
    assert tuple(content["classes"]) == tuple(meta["classes"])
    assert content["palette"] == [list(colour) for colour in meta["palette"]]
