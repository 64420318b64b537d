"""fastgw: an API gateway in two roles, compatible with Kong's hybrid mode.

The rooms and which way imports may go: docs/architecture.md.
"""

from typing import Final

__version__: Final = "0.1.0"

#: The Kong release whose Admin API and wire protocol this version keeps.
KONG_VERSION: Final = "3.9.1"
