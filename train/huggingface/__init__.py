"""Files of Hugging Face's folders: safetensors and tokenizers, read and written. model/hf knows what they mean."""
