"""What a worker does of a request: all of it, or one of two parts.

A prefill worker computes the prompt and gives parameters by which a decode worker gets its KV
state; what is in them is the engines' own business and goes through unread.
"""

from enum import Enum


class Mode(Enum):
    """What a worker does."""

    #: Prompts and answers.
    AGGREGATED = "agg"
    #: Prompts.
    PREFILL = "prefill"
    #: Answers, whose prompts others have computed.
    DECODE = "decode"

    @classmethod
    def parse(cls, text: str) -> "Mode":
        """Of a flag's value; the words of earlier versions are known, too.

        Raises:
            ValueError: it is none.
        """
        known = {"agg": cls.AGGREGATED, "aggregated": cls.AGGREGATED, "pd": cls.AGGREGATED}
        known |= {"prefill_and_decode": cls.AGGREGATED, "null": cls.AGGREGATED}
        known |= {"prefill": cls.PREFILL, "decode": cls.DECODE}
        mode = known.get(text.strip().lower())
        if mode is None:
            raise ValueError(f"{text!r} is no mode of a worker; use agg, prefill or decode")
        return mode

    @property
    def default_component(self) -> str:
        """The component that such workers are, unless another is named."""
        return "prefill" if self is Mode.PREFILL else "backend"
