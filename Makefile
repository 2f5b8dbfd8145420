# Targets for those who work on novasonic. `make` lists them; .ci/run does what `make check` does.
UV ?= python3 -m uv
RUN = $(UV) run

.PHONY: help check lint types imports test docs pictures bench soak load demo clean

help:  ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

check: lint types imports test docs  ## All that must pass before a commit lands

lint:  ## Style and format
	$(RUN) ruff check
	$(RUN) ruff format --check

types:  ## mypy and pyright, both strict
	$(RUN) mypy
	$(RUN) pyright

imports:  ## The arrows between the modules
	$(RUN) lint-imports

test:  ## The tests, with branch coverage
	$(RUN) pytest --cov

docs:  ## The documentation, into docs/_build/html
	$(RUN) sphinx-build --quiet --fresh-env --fail-on-warning docs docs/_build/html

pictures:  ## Draw the pictures of the documentation again
	$(RUN) python tools/draw_protocol.py docs/protocol.svg
	$(RUN) python tools/draw_demo.py docs/demo.svg

bench:  ## Cost and punctuality, side by side with the plain SDK
	$(RUN) python -m bench

soak:  ## Three hours of one conversation, and 500 faults in a hundred others
	$(RUN) python -m bench.soak

load:  ## 20 pages at once, against the server of examples/browser
	$(RUN) python -m bench.load

demo:  ## A whole spoken conversation, offline
	$(RUN) novasonic demo

clean:  ## Remove what the tools leave
	rm -rf .coverage* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache \
	    artifacts dist docs/_build answer.wav
