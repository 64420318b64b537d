"""Settings: everything static about one process, read once and then frozen.

1. `table.py` is the one table: a dataclass whose every field is a property with its parser, default,
   help and the roles that read it. Parsers stand in `parsers.py` and `listen.py`.
2. `sources.py` gathers what was given, in rising precedence: file, environment, flags.
3. `load.py` parses, checks what needs more than one property, and collects all faults and warnings.

Property names are Kong's where Kong has the property; `kong_names.py` holds the rest of Kong's names,
which are accepted so that a Kong user's environment starts unchanged, and named in one warning.
"""

from fastgw.settings.listen import Listen
from fastgw.settings.load import find_role, load_settings, require_cluster_pair
from fastgw.settings.table import PROPERTIES, Property, Role, Settings, default_prefix

__all__ = [
    "PROPERTIES",
    "Listen",
    "Property",
    "Role",
    "Settings",
    "default_prefix",
    "find_role",
    "load_settings",
    "require_cluster_pair",
]
