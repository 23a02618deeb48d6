"""CLIP's text transformer with learned contexts between the start token and the class name.

K classes, L tokens with contexts, N1 tokens without, B context sets, n contexts, W width, C joint width.
"""

from collections.abc import Sequence

from mmseg.registry import MODELS
from torch import Tensor

from mmseg_plugins.methods.denseclip.checkpoint import ClipPretrained
from mmseg_plugins.towers.config import Activation, TextConfig
from mmseg_plugins.towers.prompts import NamePosition, insert_contexts
from mmseg_plugins.towers.text import TextTower
from mmseg_plugins.towers.transformer import BlockInput


@MODELS.register_module()
class CLIPTextContextEncoder(ClipPretrained, TextTower):
    """Embeds class names behind learned contexts.

    Args:
        context_length: L, tokens of a whole prompt; the contexts fill what the class names leave free.
        vocab_size: rows of the token table.
        transformer_width: W.
        transformer_heads: attention heads.
        transformer_layers: number of blocks.
        embed_dim: C.
        act: activation of the MLPs, which the published models have as QuickGELU.
        clip_pretrained: CLIP file for :meth:`init_weights`; its first L positions are used.
    """

    def __init__(
        self,
        *,
        context_length: int = 13,
        vocab_size: int = 49408,
        transformer_width: int = 512,
        transformer_heads: int = 8,
        transformer_layers: int = 12,
        embed_dim: int = 1024,
        act: Activation = "quick_gelu",
        clip_pretrained: str | None = None,
    ) -> None:
        config = TextConfig(
            context_length=context_length,
            vocab_size=vocab_size,
            width=transformer_width,
            heads=transformer_heads,
            layers=transformer_layers,
            act=act,
        )
        super().__init__(config, embed_dim=embed_dim)
        self.clip_pretrained = clip_pretrained

    def tokenize_names(self, names: Sequence[str], length: int) -> Tensor:
        """Turn class names into ids, without any template.

        Args:
            names: K names.
            length: N1, tokens of each, start and end included.

        Returns:
            (K, N1) int64.

        Raises:
            ValueError: if a name is longer; it is never cut.
        """
        lengths = [len(ids) for ids in self.tokenizer.encode(list(names))]
        for name, found in zip(names, lengths, strict=True):
            if found > length:
                raise ValueError(
                    f"class name {name!r} takes {found} tokens, start and end included, but this model leaves room for "
                    f"{length} beside its {self.context_length - length} learned contexts. Use a shorter name; for a "
                    "new training raise context_length of the model and of its text encoder."
                )
        return self.tokenize(names)[:, :length]

    def forward(
        self,
        tokens_KN: Tensor,
        contexts_BnW: Tensor,
        *,
        position: NamePosition = "end",
        before_block: BlockInput | None = None,
        is_per_class: bool = False,
    ) -> Tensor:
        """Embed class names behind contexts.

        Args:
            tokens_KN: (K, N1) ids.
            contexts_BnW: (B, n, W) context sets, each for all classes; or (K, n, W), one per class.
            position: where the names stand among the contexts.
            before_block: may change what goes into each block (deep prompts).
            is_per_class: whether the contexts are one set per class.

        Returns:
            (B, K, C), not normalised; B is 1 for contexts per class.
        """
        classes = len(tokens_KN)
        sets = 1 if is_per_class else len(contexts_BnW)
        tokens = tokens_KN.repeat(sets, 1)
        contexts = contexts_BnW if is_per_class else contexts_BnW.repeat_interleave(classes, dim=0)
        vectors, ids = insert_contexts(
            self.token_embedding(tokens), tokens, contexts, position=position, name_lengths=tokens.argmax(1) - 1
        )
        return self.encode_embedded(vectors, ids, before_block=before_block).unflatten(0, (sets, classes))
