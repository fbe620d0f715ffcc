"""The decoder: sources of logits, links of the sampler chain, strategies that choose. launch/ calls it."""
