"""Models in Hugging Face's form, and back: GPT-2 and Llama, as ``config.json`` and safetensors files."""
