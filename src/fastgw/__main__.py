"""`python -m fastgw`: the same as the command `fastgw`."""

from fastgw.cli import main

if __name__ == "__main__":
    main(prog_name="fastgw")
