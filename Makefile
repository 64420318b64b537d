# The few commands a newcomer types. Each makes .venv first if it is missing or out of date.
#   make run ARGS=--demo        make test ARGS="tests/cli -x"

PYTHON_VENV := .venv/bin/python
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run dev test fuzz faults check bench docs wheels image-test chart-test clean

help: ## Say what can be made
	@echo "fastgw: make WHAT [ARGS=…]"
	@sed -n 's/^\([a-z-]*\):.*## /  \1	/p' Makefile | expand -t 10

run: ## Build, and run a control plane and a data plane here (ARGS=--demo adds something to call)
	@tools/bootstrap.sh run
	@exec .venv/bin/fastgw quickstart $(ARGS)

dev: ## Make .venv with all tools, and build the extensions in place
	@tools/bootstrap.sh dev

test: ## Run all tests (ARGS go to pytest)
	@tools/bootstrap.sh test
	$(PYTHON_VENV) -m pytest -q -n auto --dist worksteal $(ARGS)

check: dev ## Formatting, lint, types, stubs, spelling, layers
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy -p fastgw -p tests
	$(PYTHON_VENV) -m mypy.stubtest --ignore-missing-stub --ignore-disjoint-bases \
		--allowlist tools/stubtest-allowlist.txt \
		$$(find src/fastgw -name '*.pyi' | sed 's,^src/,,; s,\.pyi$$,,; s,/,.,g')
	PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/cython-lint src
	.venv/bin/codespell
	$(PYTHON_VENV) -m pytest -q tests/test_layers.py

fuzz: dev ## Mutate messages for a minute, then a million routings; twins must agree (ARGS, ROUTES_ARGS: see --help)
	$(PYTHON_VENV) -m tests.fuzz.driver $(ARGS)
	$(PYTHON_VENV) -m tests.fuzz_router $(ROUTES_ARGS)

faults: ## Try every fault of a cluster at full length, some 15 minutes (ARGS go to pytest)
	@tools/bootstrap.sh test
	$(PYTHON_VENV) -m pytest -q -n 2 --dist worksteal --long tests/scenario/faults $(ARGS)

bench: dev ## Compare with nginx and HAProxy, the short form (ARGS go to bench.load.run)
	$(PYTHON_VENV) -m bench.load.run --short $(ARGS)

docs: dev ## Build the documentation as a site: build/docs/index.html
	@$(PYTHON_VENV) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
		| $(PYTHON_VENV) -m pip install -q --disable-pip-version-check -r /dev/stdin
	$(PYTHON_VENV) -m sphinx -W --keep-going -q -b html docs build/docs

wheels: dev ## Build sdist and wheels for every Python here, and try each in an empty environment
	$(PYTHON_VENV) tools/wheels.py $(ARGS)

image-test: dev ## Build the image on a Debian base and walk through docker/README.md with it (as root)
	$(PYTHON_VENV) -m tests.image $(ARGS)

chart-test: dev ## Lint the Helm chart, and hold what it renders to golden files and schemas (ARGS=--update)
	$(PYTHON_VENV) -m tests.chart $(ARGS)

clean: ## Remove what was built, .venv included
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks src/fastgw.egg-info
	find src \( -name '*.so' -o -name '*.c' -o -name '*.html' \) -delete
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +
