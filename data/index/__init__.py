"""An index over training tokens: where any span of them stands, and how much of a text is copied from them."""
