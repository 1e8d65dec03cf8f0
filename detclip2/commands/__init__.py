"""The subcommands of ``detclip2``, one module each: ``add_arguments(parser)`` and ``run(args)``."""
