# Everything a developer runs. `make demo` and `make test` are the two to know.

PYTHON ?= python3
BIN := .venv/bin
OLLAMA_VERSIONS := 0.34.3 0.34.0
# The demo's base model: smollm2, or gemma (larger, not tuned to instructions).
BASE ?= smollm2
# How long to fuzz.
SECONDS ?= 60
# How many seasons to look for leaks in; the test suite has 6.
SEASONS ?= 200
# What is asked of a bench that takes hours.
CALL = $(if $(MINUTES),--minutes $(MINUTES)) $(if $(ONLY),--only $(ONLY)) $(if $(ANEW),--anew)
SOURCES := hookspecs plugins daemon tests

.PHONY: environment ollama demo test lint types mypy pyright contracts pytest bench-routes bench-idle bench-forms bench-memory bench-agreement bench-learning bench-learning-engine bench-selection bench-noise bench-validators bench-exams bench-first-promotion bench-seasons bench-proxy bench-undo bench-tuning fuzz-gguf leaks clean

environment: .venv/.ready

# uv installs torch in half a minute where pip needs several. Compiled once, it loads in 5 s instead of 14.
.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[train]' --group dev
	touch $@

# A real Ollama server for tests, cached in .cache/ollama: the newest, and the last one that takes adapters.
ollama: .venv/.ready
	$(BIN)/python tests/tools/build_ollama.py $(OLLAMA_VERSIONS)

demo: .venv/.ready
	$(BIN)/python tests/demo/demo.py --base $(BASE)

# What needs one core goes side by side.
test: .venv/.ready
	$(MAKE) --jobs 2 --output-sync=target lint mypy pyright contracts ollama
	$(MAKE) pytest

lint: .venv/.ready
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check --quiet $(SOURCES)

types: mypy pyright

mypy: .venv/.ready
	$(BIN)/mypy

pyright: .venv/.ready
	$(BIN)/pyright

contracts: .venv/.ready
	$(BIN)/lint-imports

pytest: ollama
	$(BIN)/pytest --numprocesses auto --dist worksteal

# Held-out score before and after on Gemma 3 270M, by each of the three ways of delivery.
bench-routes: ollama
	$(BIN)/python tests/benchmarks/routes.py

# Memory, time and imports of the idle daemon.
bench-idle: ollama
	$(BIN)/python tests/benchmarks/idle.py

# Which trained form delivers most at the least bytes. Hours; goes on where it was stopped.
bench-forms: .venv/.ready
	$(BIN)/python tests/benchmarks/forms.py $(if $(ANEW),--anew)

# Peak memory and time of a training, as planned and as seen.
bench-memory: .venv/.ready
	$(BIN)/python tests/benchmarks/memory.py

# Log-probabilities of our forward pass beside those of a real Ollama, by architecture and type of weights.
bench-agreement: ollama
	$(BIN)/python tests/benchmarks/agreement.py

# The packed engine against TRL and transformers, which this installs beside it.
bench-learning-engine: ollama
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --group peers
	$(BIN)/python tests/benchmarks/learning_engine.py

# What each part of the pipeline is worth, by real trainings at equal tokens. Hours; goes on where it was stopped.
# QUICK=1 is a small one within a quarter of an hour; MINUTES=360 begins nothing after so long; ONLY and ANEW as below.
bench-learning: ollama
	$(BIN)/python tests/benchmarks/learning.py $(if $(QUICK),--quick) $(CALL)

# Coverage-guided fuzz of the GGUF reader; what drives it is installed beside.
fuzz-gguf: .venv/.ready
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --group fuzz
	$(BIN)/python tests/fuzz/gguf_reader.py --seconds $(SECONDS)

# Seasons of runs, made up by Hypothesis, in which nothing that is held out may be learned from.
leaks: .venv/.ready
	SEASONS=$(SEASONS) $(BIN)/pytest --timeout 0 tests/integration/runs/test_no_leaks.py

# The search for near-duplicates against datasketch and SemHash, diverse selection against apricot, and what the similarity
# metrics tell apart. One thread a matrix product: several that wait for each other count as work.
# MILLION=1 shows the growth up to a million texts too.
bench-selection: .venv/.ready
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --group peers
	OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/benchmarks/selection.py $(if $(MILLION),--million)

# How much wrong feedback is found, and what right feedback loses by it. Two trainings of SmolLM2, minutes each.
bench-noise: .venv/.ready
	$(BIN)/python tests/benchmarks/noise.py

# How well validators agree with people on real answers. JUDGE=NAME asks a model of the local Ollama too.
bench-validators: .venv/.ready
	$(BIN)/python tests/benchmarks/validators.py $(if $(JUDGE),--judge $(JUDGE))

# How often the judge is deceived, and how many items it takes, simulated and on a real model against itself.
bench-exams: ollama
	nice -n 10 $(BIN)/python tests/benchmarks/exams.py

# Corrections until something better is proven and in use. Hours; goes on where it was stopped. MINUTES=180 begins nothing
# after so long, ONLY="5- 10-" makes those whose names begin so, ANEW=1 makes those of other code again.
bench-first-promotion: ollama
	$(BIN)/python tests/benchmarks/first_promotion.py $(CALL)

# What wrong feedback and ten nights on other topics do to a model. Hours; goes on where it was stopped. MINUTES, ONLY and
# ANEW as above.
bench-seasons: ollama
	$(BIN)/python tests/benchmarks/seasons.py $(CALL)

# What the proxy adds to a request, beside direct access.
bench-proxy: .venv/.ready
	$(BIN)/python tests/benchmarks/proxy.py

# What an undo takes of our own, beside Ollama's calls.
bench-undo: ollama
	$(BIN)/python tests/benchmarks/undo.py

# Tokens of a search for hyperparameters, against Optuna's TPE without pruning; goes on where it was stopped. QUICK=1: minutes.
bench-tuning: .venv/.ready
	$(BIN)/python tests/benchmarks/tuning.py $(if $(QUICK),--quick)

clean:
	rm -rf build dist .venv .cache
