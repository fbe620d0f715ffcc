"""What a text may hold besides quality: stereotypes, insults. launch/quality measures both for every sampler."""
