"""The decoder: sources of logits, links of the sampler chain, strategies that choose a token. launch/ calls it."""
