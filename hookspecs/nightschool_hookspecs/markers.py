"""pluggy's markers of this project: what a hook declaration and an implementation carry."""

import pluggy

PROJECT = "nightschool"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
