"""What is wrong in a configuration, each mistake with its place and the nearest valid name.

The parser tells the first mistake only, inside out, and passes over some: a misspelt key that holds nothing, and any
mistake where a mapping would do as well as a class. So the files are read here too, node by node.
"""

import argparse
from pathlib import Path

from jsonargparse import ArgumentParser

from .file_problems import FileProblems
from .option_problems import option_problems
from .parser_keys import key_types

NOISE = ("Given value", "Subtypes:", "Errors:", "Does not validate against", "- Expected a <class 'NoneType'>")


def configuration_problems(
    parser: ArgumentParser, arguments: list[str], refusal: argparse.ArgumentError | None = None
) -> list[str]:
    """A line for each mistake in the configuration files and options.

    Args:
        parser: the parser of the command.
        arguments: the command's arguments.
        refusal: what the parser raised, if it did. Then values and missing arguments are looked at too, and where
            nothing is found, this is what is told.
    """
    types = key_types(parser)
    files = _config_files(arguments)
    problems = list(option_problems(arguments, types, files, thorough=refusal is not None))
    for path in files:
        problems += FileProblems(path, types, thorough=refusal is not None, whole=len(files) == 1).all()
    if refusal is not None and not problems:
        lines = [line for line in str(refusal).splitlines() if not line.strip().startswith(NOISE)]
        return ["\n".join(lines)]
    return problems


def _config_files(arguments: list[str]) -> list[Path]:
    files = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name in ("-c", "--config"):
            files.append(Path(value if equals else following))
    return files
