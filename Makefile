# `make` or `make help` lists the targets. Options of a command: the named ones below, anything else in ARGS="...".
#   make extract DATASET=csv VIDEOS=/data/CSV/videos ANNOTATIONS=/data/CSV ENCODER=ViT-B/16
#   make train DATASET=csv RECIPE=weaksvr-corrected SEED=1 ARGS="--set train.epochs=100"
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
STEPCLIP := .venv/bin/stepclip
PYTHON_ENV := .venv/bin/python
READY := .venv/.installed

# option,VARIABLE: `--option 'value'` when the variable is given, nothing when it is not; quotes in it are kept
quoted = '$(subst ','\'',$(1))'
option = $(if $($(2)),--$(1) $(call quoted,$($(2))))
WHERE := $(call option,root,ROOT)
# one test process per core; a file's tests stay together, as they share what is costly to make
WORKERS ?= -n auto --dist loadfile

.PHONY: help install demo extract train eval query report test test-fast lint format docs bench clean

help:  ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt tools/install.sh
	@tools/install.sh
	@touch $@

install: $(READY)  ## make .venv with all that is needed, ffmpeg included [PYTHON= EXTRAS=]

demo: $(READY)  ## videos to answers on the synthetic bench, in minutes [ROOT= SEED= PEOPLE= ARGS=]
	@$(STEPCLIP) demo $(WHERE) $(call option,seed,SEED) $(call option,people,PEOPLE) $(ARGS)

extract: $(READY)  ## stage 1: videos to features [DATASET= VIDEOS= ANNOTATIONS= MANIFEST= ENCODER= DECODER= FPS= ROOT= ARGS=]
	@$(STEPCLIP) extract $(WHERE) $(call option,dataset,DATASET) $(call option,videos,VIDEOS) \
	  $(call option,annotations,ANNOTATIONS) $(call option,manifest,MANIFEST) $(call option,encoder,ENCODER) \
	  $(call option,decoder,DECODER) $(call option,fps,FPS) $(ARGS)

train: $(READY)  ## stage 2: features to a model [DATASET= RECIPE= RUN= SEED= ROOT= ARGS=]
	@$(STEPCLIP) train $(WHERE) $(call option,dataset,DATASET) $(call option,recipe,RECIPE) $(call option,run,RUN) \
	  $(call option,seed,SEED) $(ARGS)

eval: $(READY)  ## stage 3: a model against its controls [DATASET= RUN= SPLIT= CHECKPOINT= ROOT= ARGS=]
	@$(STEPCLIP) eval $(WHERE) $(call option,dataset,DATASET) $(call option,run,RUN) $(call option,split,SPLIT) \
	  $(call option,checkpoint,CHECKPOINT) $(ARGS)

query: $(READY)  ## find where a step happens [TEXT="pour the blue liquid" DATASET= RUN= TOP= ROOT= ARGS=]
	@$(STEPCLIP) search $(call quoted,$(TEXT)) $(WHERE) $(call option,dataset,DATASET) $(call option,run,RUN) \
	  $(call option,top,TOP) $(ARGS)

report: $(READY)  ## a run's HTML report [RUN= DATASET= ROOT= ARGS=]
	@$(STEPCLIP) report $(WHERE) $(call option,dataset,DATASET) $(call option,run,RUN) $(ARGS)

lint: $(READY)  ## ruff, typos and mypy
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/typos
	@tools/typecheck.sh

format: $(READY)  ## mend what ruff can mend
	@.venv/bin/ruff check --fix-only .
	@.venv/bin/ruff format .

docs: $(READY)  ## write the command reference in README.md anew
	@$(PYTHON_ENV) tools/reference.py

test: lint  ## lint and every test [ARGS=]
	@$(PYTHON_ENV) -m pytest $(WORKERS) $(ARGS)

test-fast: $(READY)  ## the tests that take no more than seconds [ARGS=]
	@$(PYTHON_ENV) -m pytest $(WORKERS) -m "not slow" $(ARGS)

bench: $(READY)  ## run the benchmarks; results as JSON beside them [ARGS=]
	@for script in benchmarks/bench_*.py; do \
	  [ -e "$$script" ] || { echo "no benchmarks/bench_*.py yet"; break; }; \
	  echo "== $$script"; $(PYTHON_ENV) "$$script" $(ARGS) || exit 1; \
	done

clean:  ## remove caches and builds; keeps .venv and what you extracted and trained
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -type d -prune -exec rm -rf {} +
