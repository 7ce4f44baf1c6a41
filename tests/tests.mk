# The tests: unit tests need nothing; golden tests read tests/golden; wire, pipeline and faults start real processes.
UNIT := $(filter $(OUT)/tests/unit/%,$(TESTS))

.PHONY: test unit test-asan test-tsan
test: setup ## everything, set-up included: unit, golden, wire, pipeline and fault tests
	@$(MAKE) --no-print-directory -j$$(nproc) all $(TESTS)
	@tests/run $(TESTS)
unit: $(UNIT) ## the unit tests alone
	@tests/run $(UNIT)
test-asan: ## every test under AddressSanitizer and UBSan
	@$(MAKE) --no-print-directory MODE=debug SAN=asan test
test-tsan: ## every test under ThreadSanitizer
	@$(MAKE) --no-print-directory MODE=debug SAN=tsan test
