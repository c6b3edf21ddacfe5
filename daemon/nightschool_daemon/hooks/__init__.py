"""The plugin host: which plugins there are, how they are asked, and what happens when one fails.

`Hooks.load` registers the built-ins, then installed plugins, then drop-in files, so that a later one
is asked first and its first result counts. The rest of the daemon calls the typed methods of `Hooks`.
"""

from nightschool_daemon.hooks.built_in import BUILT_IN
from nightschool_daemon.hooks.facade import Hooks
from nightschool_daemon.hooks.failures import STRIKES, PluginFailed, StrikeBook
from nightschool_daemon.hooks.loading import PluginKind, PluginRefused, PluginState, PluginStatus

__all__ = [
    "BUILT_IN",
    "STRIKES",
    "Hooks",
    "PluginFailed",
    "PluginKind",
    "PluginRefused",
    "PluginState",
    "PluginStatus",
    "StrikeBook",
]
