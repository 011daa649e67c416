# Set-up, tests and tools. Needs python3 (3.11 or later) with its venv module, and make; everything else is fetched into .venv.
# pip's own settings (PIP_… variables, pip.conf) are honoured, so a mirror or a proxy works.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --no-input
NODE_MODULES := tests/clients/node_modules console/node_modules

.DELETE_ON_ERROR:
.PHONY: help serve test fuzz chaos lint format bench docs constraints wheel clean clients console libgomp nginx git curl postgresql chromium

help:
	@echo 'make serve        set up .venv and serve on 127.0.0.1:8000   (ARGS="--port 9000 …" passes flags on)'
	@echo 'make test         set up what the tests need and run all of them'
	@echo 'make fuzz         try requests that nobody wrote               (SECONDS=600 by default; ARGS="-k mutant" passes flags on)'
	@echo 'make chaos        kill servers at work                         (KILLS=20, STORE=both by default: half on SQLite, half on'
	@echo '                  a PostgreSQL of its own; STORE=sqlite; STORE=postgresql; ARGS="--seed 7")'
	@echo 'make bench        compare with nginx as a plain relay         (ARGS=--help lists what it takes)'
	@echo 'make format       format and mend what ruff can; make lint: ruff, mypy, the import contracts'
	@echo 'make docs         write docs/compatibility.md and docs/settings.md anew'
	@echo 'make console      build the web page anew from console/'
	@echo 'make constraints  pin the dependencies anew                    (ARGS=--upgrade for newer ones)'
	@echo 'make clients      set up the JavaScript that the tests drive; make test does it too'
	@echo 'make wheel        build dist/antiphon-….whl; make clean: remove all that is built'

# exec: the signal of a Ctrl-C or a stop reaches the server itself.
serve: $(VENV)/.serve libgomp
	@exec $(BIN)/antiphon serve $(ARGS)

# Twice as many as there are cores: half of their time they wait for servers and browsers.
TESTERS ?= $(shell expr 2 '*' $$(getconf _NPROCESSORS_ONLN))
test: lint clients libgomp git curl postgresql chromium
	$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile $(ARGS)

SECONDS ?= 600
fuzz: $(VENV)/.test
	@exec $(BIN)/python -m tests.fuzz $(SECONDS) $(ARGS)

KILLS ?= 20
STORE ?= both
chaos: $(VENV)/.test $(if $(filter sqlite,$(STORE)),,postgresql)
	@exec $(BIN)/python -m tests.chaos $(KILLS) --store $(STORE) $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.test libgomp nginx
	@exec $(BIN)/python -m bench $(ARGS)

docs: $(VENV)/.test
	$(BIN)/python -m tests.compatibility
	$(BIN)/python -m tests.settings_page

wheel: $(VENV)/.serve
	$(PIP) wheel --no-deps --wheel-dir dist .

# uv, because pip cannot pin for every platform and Python at once; thrown away, because nothing else needs it.
constraints:
	@set -e; lab=$$(mktemp -d); trap 'rm -rf "$$lab"' EXIT; \
	$(PYTHON) -m venv "$$lab" && "$$lab/bin/pip" install --quiet uv && \
	"$$lab/bin/uv" pip compile --quiet --universal --no-header --no-emit-index-url --all-extras --group test $(ARGS) \
	    --output-file constraints.txt pyproject.toml

clean:
	rm -rf $(VENV) $(NODE_MODULES) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# The stamps: set up again only when what is asked for has changed.
$(VENV)/.serve: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'antiphon needs Python 3.11 or later; choose one with PYTHON=python3.12' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable '.[documents,mcp,web]'
	@touch $@

# The group is read by hand: `pip install --group` came with pip 25.1, and Debian 12 has 23.0.
$(VENV)/.test: $(VENV)/.serve
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["test"], sep="\n")' \
	    > $(VENV)/test.txt
	$(PIP) install --constraint constraints.txt --requirement $(VENV)/test.txt --editable '.[documents,mcp,postgres,web]'
	@touch $@

# npm and node come with the Python packages of the tests, so the system needs neither. No script of a package is run.
clients: $(NODE_MODULES:%=%/.done)
%/node_modules/.done: %/package.json %/package-lock.json | $(VENV)/.test
	$(BIN)/npm --prefix $* ci --ignore-scripts --no-audit --no-fund --no-update-notifier
	@touch $@

console: console/node_modules/.done
	$(BIN)/node console/node_modules/svelte-check/bin/svelte-check --workspace console --tsconfig ./tsconfig.json --fail-on-warnings
	$(BIN)/node console/node_modules/vite/bin/vite.js build console

# Installs the system package $(1) when the test $(2) fails and this user may; where it still fails, says what helps and
# goes on: $(3) is then what does not work.
define system-package
@PATH="$$PATH:/usr/sbin:/sbin"; export PATH; $(2) 2>/dev/null || { \
    if [ "$$(id -u)" = 0 ]; then as=env; else as='sudo -n env'; fi; \
    apt="$$as DEBIAN_FRONTEND=noninteractive apt-get -qq"; \
    echo '$(1) is missing: $(3). Trying to install it.' >&2; \
    if command -v apt-get >/dev/null && $$as true 2>/dev/null; then \
        { $$apt install -y $(1) || { $$apt update && $$apt install -y $(1); }; } >/dev/null 2>&1; fi; \
    $(2) 2>/dev/null || echo 'Could not install $(1). This helps: sudo apt-get install $(1)' >&2; }
endef

libgomp: $(VENV)/.serve
	$(call system-package,libgomp1,$(BIN)/python -c 'import ctypes; import sys; sys.platform != "linux" or ctypes.CDLL("libgomp.so.1")',without it the embedded model does not run)

git:
	$(call system-package,git,command -v git >/dev/null,without it Codex has no repository to work in)

curl:
	$(call system-package,curl,command -v curl >/dev/null,without it what the console gives as curl is not tried)

# Only its programs are wanted: the tests make a database of their own, on a free port.
postgresql:
	$(call system-package,postgresql,command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null,without it the tests of the PostgreSQL store are left out)

chromium:
	$(call system-package,chromium,command -v chromium >/dev/null || command -v google-chrome >/dev/null,without it the tests of the console are left out)

nginx:
	$(call system-package,nginx-light,command -v nginx >/dev/null,without it there is nothing to compare with)
