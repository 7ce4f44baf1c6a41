# make bench: builds and runs bench/bench_*.c; tables on stdout, JSON in bench/out.
# BENCH_ARGS="--quick" or "--threads 1" is passed to each.
BENCH_OBJ := $(patsubst %,$(OUT)/obj/bench/%.o,harness limits report)

.PHONY: bench
$(BENCH): $(BENCH_OBJ)
bench: setup ## each stage's speed beside the machine's measured peaks (BENCH_ARGS=--quick for a short one)
	@$(MAKE) --no-print-directory -j$$(nproc) all $(BENCH)
	@for b in $(sort $(BENCH)); do $$b $(BENCH_ARGS) || exit 1; done
-include $(BENCH_OBJ:.o=.d)
