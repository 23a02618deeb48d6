"""Everything that encodes: CLIP image and text towers, published weight layouts, downloads."""
