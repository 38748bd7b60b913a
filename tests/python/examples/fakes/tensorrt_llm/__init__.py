"""What stands for TensorRT-LLM: its documented interface, and an engine that gives prompts back."""
