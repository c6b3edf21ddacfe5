"""The plugin host: loads plugins, guards them, and gives the daemon one typed method a hook.

Built-ins are registered first, then installed distributions (entry-point group `nightschool`), then
the `*.py` files of the plugin directory: pluggy asks the last registered first, so a user's plugin
overrides a built-in's first result.

The failure policy is here and nowhere else. Each implementation is guarded when it is registered, and
hooks are then called the plain pluggy way, so that order, wrappers and first results stay pluggy's.
An observer (`before_`, `after_`) that raises is logged and the others still run. A decider that raises
ends the call with `PluginFailed`, which fails the job it was asked for and nothing else. Three strikes
disable a plugin of the user's until its file changes; a built-in is never disabled, since without it
the loop would not be whole.
"""

from nightschool_daemon.hooks.facade import Hooks
from nightschool_daemon.hooks.guarding import MAX_STRIKES, KnownStrikes, PluginFailed, StrikeBook
from nightschool_daemon.hooks.loading import PluginState, PluginStatus
from nightschool_daemon.hooks.sources import BUILT_IN, BUILT_IN_PACKAGE, OPTIONAL, PluginKind
from nightschool_daemon.hooks.stages import STAGES, is_observer, signature_of

__all__ = [
    "BUILT_IN",
    "BUILT_IN_PACKAGE",
    "MAX_STRIKES",
    "OPTIONAL",
    "STAGES",
    "Hooks",
    "KnownStrikes",
    "PluginFailed",
    "PluginKind",
    "PluginState",
    "PluginStatus",
    "StrikeBook",
    "is_observer",
    "signature_of",
]
