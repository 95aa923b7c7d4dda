# From a bare checkout, `make demo` and `make test` do all their own set-up in .venv.

BIN := .venv/bin
INSTALLED := .venv/.installed
OPENGL := .venv/.opengl
BROWSER := .venv/.browser
UV_INSTALL = $(BIN)/uv pip install $$([ -t 1 ] || echo --quiet) --python $(BIN)/python

.DEFAULT_GOAL := help
.PHONY: help setup test demo lint benchmarks lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

setup: $(INSTALLED) $(OPENGL) ## Create .venv, install vrm and its pinned dependencies, see that pictures can be rendered

demo: setup ## A sentence becomes a reward, the reward trains a humanoid, and its videos are scored
	@$(BIN)/vrm demo

test: setup $(BROWSER) ## Run the linter, the type checker and the tests
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy
	@$(BIN)/pytest --numprocesses 2 --dist loadfile

lint: setup ## Check style, formatting and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

benchmarks: setup ## Run every benchmark
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

lock: setup ## Compile requirements.txt anew from pyproject.toml
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--no-header --no-annotate --quiet --output-file requirements.txt

clean: ## Delete .venv, caches and build products; runs/ stays
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first Python that is new enough and can make a virtual environment; one that is there already comes first.
PYTHONS = $(BIN)/python python3.13 python3.12 python3.11 python3
FIND_PYTHON = for python in $(PYTHONS); do \
	"$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& break; python=; done

$(INSTALLED): requirements.txt pyproject.toml
	@$(FIND_PYTHON); if [ -z "$$python" ]; then \
		echo "vrm needs Python 3.11 or newer with its venv module (on Debian and Ubuntu the package python3-venv)." >&2; \
		exit 1; fi; \
	if [ ! -x $(BIN)/uv ]; then echo "Creating .venv with $$("$$python" --version) ..."; \
		"$$python" -m venv .venv \
		&& $(BIN)/python -m pip install --quiet --disable-pip-version-check --force-reinstall \
			$$(grep '^uv==' requirements.txt); fi
	@echo "Installing the pinned dependencies (some 3 GB the first time) ..."
	@$(UV_INSTALL) -r requirements.txt
	@$(UV_INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

# Opening a context is the only proof: libEGL alone, without a Mesa or vendor driver behind it, renders nothing.
OPENGL_WORKS = for backend in egl osmesa $(if $(filter Darwin,$(shell uname)),cgl); do \
	MUJOCO_GL=$$backend $(BIN)/python -c 'import mujoco; mujoco.GLContext(16, 16).make_current()' >/dev/null 2>&1 \
	&& break; backend=; done; [ -n "$$backend" ]
OPENGL_PACKAGES := libegl1 libopengl0 libgl1-mesa-dri
AS_ROOT = as_root=; if [ "$$(id -u)" = 0 ]; then as_root="env"; elif sudo -n true 2>/dev/null; then as_root="sudo -n env"; fi; \
	[ -n "$$as_root" ]
APT_GET = $$as_root DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0

$(OPENGL): $(INSTALLED)
	@$(OPENGL_WORKS) || { $(AS_ROOT) && command -v apt-get >/dev/null \
		&& echo "Installing the system packages $(OPENGL_PACKAGES) ..." \
		&& $(APT_GET) update </dev/null >/dev/null && $(APT_GET) install --no-install-recommends $(OPENGL_PACKAGES) </dev/null >/dev/null \
		&& $(OPENGL_WORKS); } \
	|| { echo "Rendering needs OpenGL without a screen: install $(OPENGL_PACKAGES)" \
		"(on Fedora mesa-libEGL libglvnd-opengl mesa-dri-drivers) and run this again." >&2; exit 1; }
	@touch $@

# On some systems the command only asks for a package that is not there, so finding it is no proof.
BROWSER_WORKS = for browser in chromium chromium-browser google-chrome; do \
	"$$browser" --version >/dev/null 2>&1 && break; browser=; done; [ -n "$$browser" ]

$(BROWSER): $(INSTALLED)
	@{ $(BROWSER_WORKS) || { $(AS_ROOT) && command -v apt-get >/dev/null \
		&& echo "Installing the system package chromium for the tests of the report page ..." \
		&& $(APT_GET) update </dev/null >/dev/null 2>&1 \
		&& $(APT_GET) install --no-install-recommends chromium </dev/null >/dev/null 2>&1 \
		&& $(BROWSER_WORKS); }; } && touch $@ \
	|| echo "Chromium is not here: the tests of the report page in a browser will be skipped."
