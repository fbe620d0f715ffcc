"""Text to rows of tokens: sources, tokenizers, the store on disk, packing. Calls no JAX."""
