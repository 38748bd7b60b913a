"""What stands for vLLM: its documented interface, and an engine that gives prompts back."""


class SamplingParams:
    def __init__(self, **given):
        self.__dict__.update(given)
