"""The demo's echo upstream as a process of its own, for the walk through containers.

python -m fastgw.cli.quickstart.echo --port 9000          serve on all addresses, until SIGTERM
python -m fastgw.cli.quickstart.echo --port 9000 --ask    exit with 0 when the one beside answers
"""

from __future__ import annotations

import asyncio
import signal
import sys

import click

from fastgw.cli.ask import ask
from fastgw.cli.quickstart.demo import EchoUpstream
from fastgw.settings import Listen


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), required=True)
@click.option("--ask", "is_asked", is_flag=True, help="Ask the one that runs, instead of serving.")
def main(port: int, is_asked: bool) -> None:
    """Answer every request with what was seen of it."""
    if is_asked:
        try:
            sys.exit(ask(Listen("127.0.0.1", port), "/").status != 200)
        except OSError as error:
            raise click.ClickException(str(error)) from None
    asyncio.run(_serve(port))


async def _serve(port: int) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    echo = EchoUpstream()
    await echo.start("0.0.0.0", port)
    await stopped.wait()
    await echo.close()


if __name__ == "__main__":
    main()
