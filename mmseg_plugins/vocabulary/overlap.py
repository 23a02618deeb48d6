"""Which classes a model has seen in training: the seen/unseen split of the geometric ensemble and of hIoU."""

from mmseg_plugins.vocabulary.vocabulary import Vocabulary


def seen_mask(vocabulary: Vocabulary, training_vocabulary: Vocabulary) -> tuple[bool, ...]:
    """Say for each class whether any of its names equals any name of any training class.

    The rule of FC-CLIP, MAFT+ and Mask-Adapter: a set test on exact strings, so capitals and plurals count; blanks at
    the ends do not, as a vocabulary holds no such blanks.

    Args:
        vocabulary: the classes asked about.
        training_vocabulary: the classes of the training set, with the synonyms used there.

    Returns:
        K flags.

    Example:
        >>> seen_mask(Vocabulary.parse("cat; sofa, couch; tree"), Vocabulary.parse("couch; dog"))
        (False, True, False)
    """
    known = set(training_vocabulary.rows)
    return tuple(not known.isdisjoint(names) for names in vocabulary.prompts)
