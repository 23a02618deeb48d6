"""Turns a Clip's state into the layouts that other programs write (the inverse of what is tested)."""

import torch


def openai_layout(clip):
    return {key.removeprefix("text."): value for key, value in clip.state_dict().items()}


def hugging_face_layout(clip):
    """transformers' CLIPModel names, position ids included."""
    out = {"logit_scale": clip.logit_scale.detach().clone()}
    state = openai_layout(clip)
    towers = [("visual.", "vision_model.", clip.config.vision.width)] if clip.visual is not None else []
    towers += [("", "text_model.", clip.config.text.width)] if clip.text is not None else []
    for ours, theirs, width in towers:
        for index in range(2):
            front, target = f"{ours}transformer.resblocks.{index}.", f"{theirs}encoder.layers.{index}."
            for kind in ("weight", "bias"):
                stacked = state[f"{front}attn.in_proj_{kind}"]
                for part, letter in enumerate("qkv"):
                    out[f"{target}self_attn.{letter}_proj.{kind}"] = stacked[part * width : (part + 1) * width]
                out[f"{target}self_attn.out_proj.{kind}"] = state[f"{front}attn.out_proj.{kind}"]
                out[f"{target}layer_norm1.{kind}"] = state[f"{front}ln_1.{kind}"]
                out[f"{target}layer_norm2.{kind}"] = state[f"{front}ln_2.{kind}"]
                out[f"{target}mlp.fc1.{kind}"] = state[f"{front}mlp.c_fc.{kind}"]
                out[f"{target}mlp.fc2.{kind}"] = state[f"{front}mlp.c_proj.{kind}"]
    if clip.visual is not None:
        front = "vision_model.embeddings."
        out[f"{front}class_embedding"] = state["visual.class_embedding"]
        out[f"{front}patch_embedding.weight"] = state["visual.conv1.weight"]
        out[f"{front}position_embedding.weight"] = state["visual.positional_embedding"]
        out[f"{front}position_ids"] = torch.arange(len(state["visual.positional_embedding"]))[None]
        out["visual_projection.weight"] = state["visual.proj"].T
        for kind in ("weight", "bias"):
            out[f"vision_model.pre_layrnorm.{kind}"] = state[f"visual.ln_pre.{kind}"]
            out[f"vision_model.post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
    if clip.text is not None:
        front = "text_model.embeddings."
        out[f"{front}token_embedding.weight"] = state["token_embedding.weight"]
        out[f"{front}position_embedding.weight"] = state["positional_embedding"]
        out[f"{front}position_ids"] = torch.arange(len(state["positional_embedding"]))[None]
        out["text_projection.weight"] = state["text_projection"].T
        for kind in ("weight", "bias"):
            out[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
    return out


def slip_layout(clip):
    """SLIP's and LaCLIP's names: timm's image transformer beside OpenAI's text tower."""
    state = openai_layout(clip)
    out = {key: value for key, value in state.items() if not key.startswith("visual.")}
    out["image_projection"] = state["visual.proj"]
    out["visual.cls_token"] = state["visual.class_embedding"][None, None]
    out["visual.pos_embed"] = state["visual.positional_embedding"][None]
    names = {"ln_1": "norm1", "ln_2": "norm2", "attn.out_proj": "attn.proj", "mlp.c_fc": "mlp.fc1"}
    names |= {"mlp.c_proj": "mlp.fc2", "attn.in_proj": "attn.qkv"}
    for kind in ("weight", "bias"):
        out[f"visual.patch_embed.proj.{kind}"] = state[f"visual.conv1.{kind}"]
        out[f"visual.norm.{kind}"] = state[f"visual.ln_post.{kind}"]
        for index in range(2):
            front = f"visual.transformer.resblocks.{index}."
            for ours, theirs in names.items():
                joint = "_" if ours == "attn.in_proj" else "."
                out[f"visual.blocks.{index}.{theirs}.{kind}"] = state[f"{front}{ours}{joint}{kind}"]
    return out
