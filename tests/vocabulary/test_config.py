import pytest

from mmseg_plugins import Vocabulary
from mmseg_plugins.vocabulary.config import VocabularyConfig


def test_the_form_of_the_configs():
    config = Vocabulary.from_config(
        {"source": "ade20k_150", "names": "synonyms_fcclip", "templates": "vild14", "reduce": "max", "background": None}
    )
    assert len(config.vocabulary.rows) == 403
    assert len(config.templates) == 14
    assert (config.reduce, config.normalize_each) == ("max", True)


@pytest.mark.parametrize("source", ["cat; dog", ["cat", "dog"], Vocabulary.parse("cat; dog")])
def test_a_source_alone_takes_the_defaults(source):
    config = VocabularyConfig.from_config(source)
    assert config.vocabulary == Vocabulary.parse("cat; dog")
    assert len(config.templates) == 80


def test_the_class_file_form_is_a_source_too():
    vocabulary = Vocabulary.parse("cat; dog", background=0.5)
    assert VocabularyConfig.from_config(vocabulary.to_dict()).vocabulary == vocabulary


def test_a_config_that_was_read_already_is_kept():
    config = VocabularyConfig.from_config("cat; dog")
    assert VocabularyConfig.from_config(config) is config


def test_mmengines_config_dictionaries_are_read():
    mmengine = pytest.importorskip("mmengine", reason="needs mmengine")
    config = mmengine.Config(
        {"vocabulary": {"source": ["cat", ["sofa", "couch"]], "background": {"words": ["floor"], "threshold": 0.5}}}
    )
    vocabulary = VocabularyConfig.from_config(config.vocabulary).vocabulary
    assert vocabulary.prompts == (("floor",), ("cat",), ("sofa", "couch"))
    grouped = mmengine.Config({"vocabulary": {"source": {"other": ["floor", "wall"], "cat": None}}})
    assert VocabularyConfig.from_config(grouped.vocabulary).vocabulary.class_names == ("other", "cat")


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"source": "voc20", "template": "vild14"}, ValueError, "unknown key 'template'. Did you mean 'templates'"),
        ({"names": "classes"}, ValueError, "has no 'source'"),
        ({"source": "voc20", "reduce": "sum"}, ValueError, "reduce must be one of max, mean, but got 'sum'"),
        ({"source": "cat; dog", "duplicates": "keep"}, ValueError, "duplicates must be 'error' or 'allow'"),
        ({"source": "voc20", "templates": "vild15"}, KeyError, "Did you mean 'vild14'"),
        (7, TypeError, "vocabulary must be a dict with 'source'"),
    ],
)
def test_what_nothing_reads_is_refused(config, error, message):
    with pytest.raises(error, match=message):
        VocabularyConfig.from_config(config)
