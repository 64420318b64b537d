"""The tests; the layout mirrors src/fastgw."""
