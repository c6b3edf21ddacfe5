"""Entry of `nightschool`. `serve` and `proxy` are dispatched before the command line's libraries are loaded."""

import sys
from pathlib import Path


def main() -> int:
    """Run the command. Returns the exit code."""
    arguments = sys.argv[1:]
    if command_of(arguments) in ("serve", "proxy") and "--help" not in arguments:
        return _serve(arguments)
    from nightschool_daemon.cli import run

    return run()


def command_of(arguments: list[str]) -> str | None:
    """The command: the first word that is neither an option nor the file that `--config` names."""
    words = iter(arguments)
    for word in words:
        if word == "--config":
            next(words, None)
        elif not word.startswith("-"):
            return word
    return None


def _serve(arguments: list[str]) -> int:
    """`nightschool [--config FILE] serve [--safe-mode]`, or `proxy`, without a parser's weight."""
    import argparse

    parser = argparse.ArgumentParser(prog="nightschool")
    parser.add_argument("--config", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve").add_argument("--safe-mode", action="store_true")
    commands.add_parser("proxy").add_argument("--with-parent", action="store_true")
    given = parser.parse_args(arguments)
    if given.command == "proxy":
        from nightschool_daemon.proxy.server import main as proxy

        return proxy(given.config, with_parent=given.with_parent)
    from nightschool_daemon.service import main as serve

    return serve(given.config, safe_mode=given.safe_mode)


if __name__ == "__main__":
    sys.exit(main())
