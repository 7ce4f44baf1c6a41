# The tests: unit tests need nothing; golden tests read tests/golden; wire, pipeline and faults start real processes.
UNIT := $(filter $(OUT)/tests/unit/%,$(TESTS))
FUZZ := $(filter $(OUT)/tests/fuzz/%,$(TESTS))
GOLDEN_TESTS := $(filter $(OUT)/tests/golden/%,$(TESTS))
export TSAN_OPTIONS ?= suppressions=$(CURDIR)/tests/tsan.supp
# What the tests run as processes.
TEST_NEEDS := all

.PHONY: test unit golden test-training test-asan test-tsan fuzz check lint test-clients test-page chaos test-peft test-llamacpp
test: setup ## everything, set-up included: unit, golden, wire, pipeline, fault and fuzz tests
	@$(MAKE) --no-print-directory -j$$(nproc) $(TEST_NEEDS) $(TESTS)
	@tests/run $(TESTS)
unit: $(UNIT) ## the unit tests alone
	@tests/run $(UNIT)
golden: all $(GOLDEN_TESTS) ## the golden tests; TYTO_GOLDEN_MODELS=DIR:DIR runs them over other golden sets
	@tests/run $(GOLDEN_TESTS)
test-training: training $(OUT)/tests/pipeline/test_train_ranks ## the trainer on 1, 2 and 4 MPI ranks (`make test` runs it where it is built)
	@tests/run $(OUT)/tests/pipeline/test_train_ranks
test-asan: ## every test under AddressSanitizer and UBSan
	@$(MAKE) --no-print-directory MODE=debug SAN=asan test
test-tsan: ## every test under ThreadSanitizer
	@$(MAKE) --no-print-directory MODE=debug SAN=tsan test
fuzz: ## the fuzz tests, longer (FUZZ_ROUNDS=N), under ASan
	@$(MAKE) --no-print-directory MODE=debug SAN=asan fuzz-run
.PHONY: fuzz-run
fuzz-run: all $(FUZZ)
	@FUZZ_ROUNDS=$${FUZZ_ROUNDS:-20000} tests/run $(FUZZ)

# The release gate.
check: format-check lint test test-asan test-tsan fuzz ## the release gate: format, lint, tests, sanitizers, fuzz
# It must see these macros to parse what they make.  The first suppression is of system headers, the second of advice,
# the third is out of date (readdir is safe for a DIR that one thread has; readdir_r is deprecated).
LINT_SRC := $(wildcard common/*/*.c common/*/*/*.c services/*/*.c orchestration/*.c training/*.c)
CPPCHECK := --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 -j $(shell nproc) -I. \
    --library=posix,bsd --include=/usr/include/jansson.h --include=$(firstword $(wildcard /usr/include/*/sys/queue.h /usr/include/sys/queue.h)) \
    --suppress=missingIncludeSystem --suppress=normalCheckLevelMaxBranches --suppress=readdirCalled
lint: $(PROTO_C) ## cppcheck and clang-tidy
	@tools/setup clang-tidy cppcheck clang-format
	@cppcheck --version && cppcheck $(CPPCHECK) $(LINT_SRC)
	@clang-tidy --version | grep -i version
	@printf '%s\n' $(filter-out common/math/arch/%,$(LINT_SRC)) | \
	    xargs -P $$(nproc) -n 4 sh -c 'clang-tidy --quiet "$$@" -- $(STD) 2>/dev/null' lint

# Checks by other people's programs, from PyPI; not part of `make test`.
CLIENTS := build/clients
$(CLIENTS)/.%: tests/clients/%.txt
	@tools/setup python3-venv
	@[ -x $(CLIENTS)/bin/pip ] || /usr/bin/python3 -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install --quiet -r $<
	@touch $@
test-clients: all $(CLIENTS)/.requirements ## the official openai client against the running pipeline
	@tests/clients/run $(OUT)/bin $(CLIENTS)/bin/python
test-page: all $(CLIENTS)/.requirements-page ## Chromium drives the web page; screenshots in build/screenshots
	@tools/setup chromium chromium-driver
	@tests/clients/run-page $(OUT)/bin $(CLIENTS)/bin/python build/screenshots
chaos: all $(CLIENTS)/.requirements ## 100 streams while decoders, brokers, stores and gateways are killed (CHAOS_ARGS)
	@$(CLIENTS)/bin/python tests/clients/chaos.py $(OUT)/bin $(CHAOS_ARGS)
test-peft: all $(CLIENTS)/.requirements-peft ## PEFT loads an adapter that the trainer wrote (installs PyTorch)
	@rm -rf build/peft-check
	$(OUT)/bin/tyto-train --model tests/golden/v1-micro --data tests/golden/images_golden/v1_train.jsonl --images tests/golden/images \
	    --recipe v1-stage2 --batch 4 --steps 20 --lr 1e-2 --merge --out build/peft-check/v1
	$(OUT)/bin/tyto-train --model tests/golden/v2-micro --data tests/golden/images_golden/v2_train.json --images tests/golden/images \
	    --recipe v2-lora --batch 4 --steps 20 --lr 1e-2 --merge --out build/peft-check/v2
	for v in v1 v2; do \
	    $(CLIENTS)/bin/python tests/clients/check_peft.py tests/golden/$$v-micro build/peft-check/$$v/adapter build/peft-check/$$v/model || exit 1; done
test-llamacpp: all $(CLIENTS)/.requirements-llama ## llama.cpp reads our decoder.gguf, we read its files (compiles for minutes)
	@tools/setup cmake g++
	$(OUT)/bin/tyto import tests/golden/v1-micro build/models/llamacpp-check
	$(CLIENTS)/bin/python tests/clients/check_llamacpp.py build/models/llamacpp-check/decoder.gguf tests/golden/v1-micro/golden.json
	$(OUT)/bin/tyto import tests/golden/v1-bloom-micro build/models/llamacpp-bloom --type f32
	$(CLIENTS)/bin/python tests/clients/check_llamacpp.py build/models/llamacpp-bloom/decoder.gguf tests/golden/v1-bloom-micro/golden.json
	$(CLIENTS)/bin/python tests/clients/check_llama_gguf.py $(OUT)/bin build/models/llamacpp-check/decoder.gguf
