"""
System checks of the settings, with the texts that the same faults have at run time.

Every module of this package is imported, so a check is added by adding a module with a function under
``@register("dbpool")``. Checks that ask the server are under ``@register(Tags.database)`` alone: what is tagged
"dbpool" runs in every ``manage.py check``, also where there is no server. Each message begins with the name of its
setting, by which ``manage.py dbpool check`` sorts them. Ids are listed in docs/checks.md; none is ever used again.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
