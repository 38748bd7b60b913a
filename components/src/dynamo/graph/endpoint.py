"""Where something is served: `dyn://namespace.component.endpoint`."""

import re
from typing import NamedTuple

SCHEME = "dyn://"

#: What a part of a path may consist of; the runtime takes the same.
_PART = re.compile(r"[A-Za-z0-9_-]+")


class EndpointPath(NamedTuple):
    """The path of an endpoint."""

    namespace: str
    component: str
    endpoint: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.namespace}.{self.component}.{self.endpoint}"

    @classmethod
    def parse(cls, text: str) -> "EndpointPath":
        """Reads `dyn://namespace.component.endpoint`, with or without `dyn://`.

        Raises:
            ValueError: it is none.
        """
        parts = text.removeprefix(SCHEME).split(".")
        if len(parts) != 3 or not all(map(is_name, parts)):
            raise ValueError(
                f'"{text}", which is no endpoint; write dyn://NAMESPACE.COMPONENT.ENDPOINT, each of '
                "letters, digits, - and _"
            )
        return cls(*parts)


def is_name(text: str) -> bool:
    """Whether a namespace, a component or an endpoint may be called so."""
    return _PART.fullmatch(text) is not None
