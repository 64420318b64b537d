"""`fastgw completion`: the script that makes a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(
    epilog='For instance: eval "$(fastgw completion bash)" in ~/.bashrc, or '
    "'fastgw completion fish > ~/.config/fish/completions/fastgw.fish'."
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of SHELL, to be read by the shell when it starts."""
    make = get_completion_class(shell)
    assert make is not None
    click.echo(make(context.find_root().command, {}, "fastgw", "_FASTGW_COMPLETE").source())
