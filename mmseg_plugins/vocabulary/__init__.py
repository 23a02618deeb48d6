"""Names, synonyms, templates and their text embeddings."""
