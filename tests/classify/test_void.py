import torch

from mmseg_plugins.classify.void import append_void
from mmseg_plugins.vocabulary.embed import TextEmbeddings


def test_void_is_a_unit_row_behind_the_classes_with_gradient():
    text = TextEmbeddings(torch.eye(3), torch.tensor([0, 0, 1]), 2)
    void = torch.nn.Parameter(torch.tensor([[0.0, 3.0, 4.0]]))
    joined = append_void(text, void)
    assert joined.num_classes == 3
    assert joined.row_class.tolist() == [0, 0, 1, 2]
    torch.testing.assert_close(joined.rows[-1], torch.tensor([0.0, 0.6, 0.8]))
    joined.rows[-1, 1].backward()
    assert void.grad.abs().sum() > 0
