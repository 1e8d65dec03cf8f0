"""The subcommands of ``detclip2``, one module each.

A module has ``EXAMPLE`` (a command line), ``add_arguments(parser)`` and ``run(args)``.
"""
