# `make demo` and `make test` set up all they need in environments of their own.
PYTHON ?= python3
DEMO := .venv
DEV := .venv-dev
LOWEST := .venv-lowest
PARITY := .venv-parity
HOSTS := .venv-hosts

.PHONY: demo test test-all quick versions parity hosts lint format benchmark photos-given clean

demo: $(DEMO)/ready
	$(DEMO)/bin/resnet-infer classify demo/pictures --top-k 3

# The tests that start no process and no browser: within a minute on two cores.
quick: $(DEV)/ready
	$(DEV)/bin/python -m pytest -n auto -m quick --ignore tests/parity --ignore tests/hosts

# The quick tests, with every --help, at the lowest versions that pyproject.toml allows; the highest ones are in $(DEV).
# What only tests use is not at its lowest, and is left out where it needs newer versions: its tests are skipped.
versions: $(LOWEST)/ready
	RESNET_INFER_REQUIRE= $(LOWEST)/bin/python -m pytest -n auto -q -m quick --ignore tests/parity --ignore tests/hosts

# Where a program or a browser is missing, the tests that need it are skipped; the summary says how to install it.
# With RESNET_INFER_REQUIRE=1, as in CI, they fail.
test: $(DEV)/ready
	$(DEV)/bin/python tests/tensorrt/fetch.py $(DEV)/tensorrt
	$(DEV)/bin/python -m pytest -n auto --dist loadfile --durations 20 -m "not slow" --ignore tests/parity --ignore tests/hosts

test-all: $(DEV)/ready
	$(DEV)/bin/python tests/tensorrt/fetch.py $(DEV)/tensorrt
	$(DEV)/bin/python -m pytest -n auto --dist loadfile --ignore tests/parity --ignore tests/hosts

# Compares with torchvision and timm. RESNET_INFER_CIFAR_NETS, where it is set, is a checkout of pytorch_resnet_cifar10
# with its trained networks.
parity: $(PARITY)/ready
	$(PARITY)/bin/python -m pytest tests/parity

# The package inside real hosts, which docs/in-your-program.md describes. One host at a time: their deadlines are in seconds.
hosts: $(HOSTS)/ready
	$(HOSTS)/bin/python -m pytest tests/hosts

# mypy reads the tests, benchmarks, experiments and tools too.
lint: $(DEV)/ready
	$(DEV)/bin/ruff check
	$(DEV)/bin/ruff format --check
	$(DEV)/bin/mypy

format: $(DEV)/ready
	$(DEV)/bin/ruff check --fix
	$(DEV)/bin/ruff format

$(DEMO)/ready: pyproject.toml
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[cpu]"
	touch $@

$(DEV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[cpu,export,train,serve,benchmark,openvino,test,test-serve]"
	touch $@

$(LOWEST)/ready: pyproject.toml constraints.txt tools/lowest.py
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m tools.lowest > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(LOWEST)/lowest.txt --editable ".[cpu,export,train,report,serve,benchmark,openvino]" hypothesis pytest pytest-timeout pytest-xdist
	touch $@

# torchvision and timm without what they depend on, which would bring another build of torch.
$(PARITY)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[cpu,export,train,test]" huggingface-hub pyyaml
	$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps torchvision timm
	touch $@

$(HOSTS)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(HOSTS)
	$(HOSTS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[cpu,train]" celery fastapi flask gevent gunicorn ipykernel joblib nbclient pyinstaller pytest pytest-timeout uvicorn
	touch $@

# PHOTOS is a folder of photographs, the more the better; CIFAR, where it is given, CIFAR-10 to train on, and TINY Tiny
# ImageNet to evaluate on.
benchmark: photos-given $(DEV)/ready $(DEMO)/ready
	$(DEMO)/bin/python -m benchmarks.startup
	$(DEV)/bin/python -m benchmarks.throughput $(PHOTOS)
	test -z "$(CIFAR)" || $(DEV)/bin/python -m benchmarks.training $(CIFAR)
	$(DEV)/bin/python -m benchmarks.inference $(PHOTOS)
	$(DEV)/bin/python -m benchmarks.int8 $(PHOTOS)
	$(DEV)/bin/python -m benchmarks.evaluation $(PHOTOS) $(if $(TINY),--tiny $(TINY))
	$(DEV)/bin/python -m benchmarks.serving $(PHOTOS)
	$(DEV)/bin/python -m benchmarks.peers $(PHOTOS)
	test -z "$(CIFAR)" || $(DEV)/bin/python -m benchmarks.loadgen $(PHOTOS) $(CIFAR)

photos-given:
	@test -d "$(PHOTOS)" || { echo "say where photographs are: make benchmark PHOTOS=folder" >&2; exit 2; }

clean:
	rm -rf $(DEMO) $(DEV) $(LOWEST) $(PARITY) $(HOSTS) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
