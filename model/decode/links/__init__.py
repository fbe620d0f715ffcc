"""SEAM 3b, the links of a sampler chain: each maps next-token logits to others. chain.py names them."""
