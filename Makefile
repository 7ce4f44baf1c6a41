# Tyto: `make help` lists the targets.  The two that do everything, set-up included: `make run`, `make test`.
#
# One folder per program: services/NAME/*.c -> tyto-NAME, orchestration/*.c -> tyto, training/*.c ->
# tyto-train.  Everything else is libtyto.a.  A service's files apart from its main.c are in libtyto.a too: `tyto run`, the tests and the
# bench link the very file that the service ships.
MODE  ?= release
SAN   ?=
CC    ?= cc
# release is build/, the other modes build/<mode>[-<sanitizer>]/
OUT   := build$(if $(filter-out release,$(MODE))$(SAN),/$(MODE)$(addprefix -,$(SAN)))
GEN   := build/gen

STD   := -std=c11 -D_GNU_SOURCE -I. -I$(GEN) -pthread
WARN  := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
         -Wpointer-arith -Wwrite-strings -Wundef -Wvla -Wformat=2 \
         -Wdouble-promotion -Wimplicit-fallthrough -Werror
OPT.release := -O3 -g -fno-math-errno -fno-trapping-math -fno-omit-frame-pointer
OPT.debug   := -O1 -g3 -fno-omit-frame-pointer -DTY_DEBUG
SAN.        :=
SAN.asan    := -fsanitize=address,undefined -fno-sanitize-recover=all
SAN.tsan    := -fsanitize=thread
HARDEN.release := -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fPIE
# No FMA contraction in shared code: results must not depend on which file the compiler fused.
CFLAGS  := $(STD) $(WARN) -ffp-contract=off $(OPT.$(MODE)) $(SAN.$(SAN)) $(if $(SAN),,$(HARDEN.$(MODE))) $(EXTRA_CFLAGS)
HARDEN_LD.release := -pie -Wl,-z,relro,-z,now
LDFLAGS := $(SAN.$(SAN)) $(if $(SAN),,$(HARDEN_LD.$(MODE))) -pthread $(EXTRA_LDFLAGS)
# OpenBLAS is not here: it is opened at run time, once its core type is known (common/math/blas.c).
# A program is loaded with what it uses alone.
LDLIBS  := -Wl,--as-needed -lzmq -lprotobuf-c -levent -ljansson -lxxhash -lcrypto -lhiredis -lcurl -ljpeg -lpng -lwebp -lwebpdemux -lz -ldl -lm

ARCH := $(shell $(CC) -dumpmachine | cut -d- -f1)
KERNELS.x86_64 := avx2 avx512 avx512vnni avx512bf16
ISA.kernel_avx2   := -mavx2 -mfma -mf16c
ISA.kernel_avx512 := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c
ISA.kernel_avx512vnni := $(ISA.kernel_avx512) -mavx512vnni
ISA.kernel_avx512bf16 := $(ISA.kernel_avx512) -mavx512bf16
# These emulate 512-bit vectors inside one object file: how they are passed does not matter.
ISA.test_kernel_avx512 := -Wno-psabi -Wno-pass-failed
ISA.test_kernel_avx512vnni := $(ISA.test_kernel_avx512)

ARCH_SRC := $(wildcard $(KERNELS.$(ARCH):%=common/math/arch/kernel_%.c))
PROTO_C := $(patsubst proto/%.proto,$(GEN)/%.pb-c.c,$(wildcard proto/*.proto))
SERVICES := $(notdir $(wildcard services/*))
MAINS   := $(wildcard services/*/main.c) orchestration/main.c training/main.c
LIB_SRC := $(wildcard common/*/*.c eval/*.c) $(ARCH_SRC) \
           $(filter-out $(MAINS),$(wildcard services/*/*.c orchestration/*.c training/*.c))
LIB_OBJ := $(LIB_SRC:%.c=$(OUT)/obj/%.o) $(PROTO_C:%.c=$(OUT)/obj/%.o)
MAIN_OBJ := $(MAINS:%.c=$(OUT)/obj/%.o)
BINS    := $(patsubst services/%/main.c,$(OUT)/bin/tyto-%,$(wildcard services/*/main.c)) \
           $(OUT)/bin/tyto $(OUT)/bin/tyto-train
# A test is tests/<kind>/test_NAME.c; tests/support/*.c is linked to each.
TEST_SRC := $(wildcard tests/*/test_*.c)
TESTS    := $(TEST_SRC:tests/%.c=$(OUT)/tests/%)
TEST_OBJ := $(TEST_SRC:%.c=$(OUT)/obj/%.o)
SUPPORT_OBJ := $(patsubst %.c,$(OUT)/obj/%.o,$(wildcard tests/support/*.c))
BENCH   := $(patsubst bench/bench_%.c,$(OUT)/bench/bench_%,$(wildcard bench/bench_*.c))

.DEFAULT_GOAL := all
.PHONY: all setup help clean FORCE
.SECONDARY:
all: $(BINS) ## build every program into build/bin (MODE=debug, SAN=asan|tsan: build/<mode>/bin)

setup: ## install the Debian packages that are missing (root), or print the line to run
	@tools/setup

# One object per source, its dependency file beside it; rebuild everything when the flags change.
$(OUT)/.flags: FORCE
	@mkdir -p $(@D); echo '$(CC) $(CFLAGS)' | cmp -s - $@ || echo '$(CC) $(CFLAGS)' > $@
$(OUT)/obj/%.o: %.c $(OUT)/.flags
	@mkdir -p $(@D)
	@echo "  CC $<"
	@$(CC) $(CFLAGS) $(if $(filter $(GEN)/%,$<),-w) $(ISA.$(basename $(<F))) -MMD -MP -c -o $@ $<
$(GEN)/%.pb-c.c $(GEN)/%.pb-c.h: proto/%.proto
	@mkdir -p $(GEN)
	@echo "  PROTOC $<"
	@protoc-c --proto_path=proto --c_out=$(GEN) $<
# Generated headers exist before anything compiles; after that the .d files take over.
$(filter-out $(OUT)/obj/$(GEN)/%,$(LIB_OBJ)) $(MAIN_OBJ) $(TEST_OBJ) $(SUPPORT_OBJ): | $(PROTO_C:.c=.h)
# The page is included by the assembler, which writes no dependencies.
$(OUT)/obj/services/gateway/page.o: $(wildcard services/gateway/page/*)
$(OUT)/libtyto.a: $(LIB_OBJ)
	@rm -f $@
	@ar rcs $@ $^

$(OUT)/bin/tyto-train: $(OUT)/obj/training/main.o $(OUT)/libtyto.a
	@mkdir -p $(@D)
	@echo "  LD $@"
	@$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(OUT)/bin/tyto-%: $(OUT)/obj/services/%/main.o $(OUT)/libtyto.a
	@mkdir -p $(@D)
	@echo "  LD $@"
	@$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(OUT)/bin/tyto: $(OUT)/obj/orchestration/main.o $(OUT)/libtyto.a
	@mkdir -p $(@D)
	@echo "  LD $@"
	@$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) -ledit
$(OUT)/tests/%: $(OUT)/obj/tests/%.o $(SUPPORT_OBJ) $(OUT)/libtyto.a
	@mkdir -p $(@D)
	@echo "  LD $@"
	@$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka
$(OUT)/bench/%: $(OUT)/obj/bench/%.o $(OUT)/libtyto.a
	@mkdir -p $(@D)
	@$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS)

# ---- make training: the trainer over MPI; ranks.c once more, in place of the one in libtyto.a ----
$(OUT)/obj/training/ranks_mpi.o: training/ranks.c training/ranks.h $(OUT)/.flags
	@mkdir -p $(@D)
	@echo "  CC $< (MPI)"
	@$(CC) $(CFLAGS) -DTYTO_MPI $(addprefix -isystem,$(patsubst -I%,%,$(filter -I%,$(shell mpicc --showme:compile)))) -c -o $@ $<
$(OUT)/bin/tyto-train-mpi: $(OUT)/obj/training/main.o $(OUT)/obj/training/ranks_mpi.o $(OUT)/libtyto.a
	@mkdir -p $(@D)
	@echo "  LD $@"
	@$(CC) $(LDFLAGS) -o $@ $^ $(shell mpicc --showme:link) $(LDLIBS)
.PHONY: training
training: all ## the trainer over MPI, build/bin/tyto-train-mpi (installs OpenMPI's packages)
	@tools/setup libopenmpi-dev openmpi-bin
	@$(MAKE) --no-print-directory $(OUT)/bin/tyto-train-mpi

include tests/tests.mk
-include bench/bench.mk
include training/owlet/owlet.mk

# ---- make run: the default pipeline, one question, then it serves until Ctrl-C ----
# Where it listens, and what it asks: make run PORT=8081 ASK="..." ASK_IMAGE=my.jpg
HOST  ?= 127.0.0.1
PORT  ?= 8080
DEFAULT_MODEL := models/owlet
ASK       ?= What colour are the hearts?
ASK_IMAGE ?= models/owlet/example.jpg
# "make run" uses the release programs, whatever MODE says.
run: setup ## bring the default pipeline up, ask about a picture, serve until Ctrl-C (PORT=8080)
	@$(MAKE) --no-print-directory -s MODE=release SAN= -j$$(nproc) all
	@exec env ASK='$(subst ','\'',$(ASK))' ASK_IMAGE='$(ASK_IMAGE)' tools/run-demo $(DEFAULT_MODEL) $(HOST):$(PORT)
.PHONY: run

include orchestration/deploy.mk

format: ## rewrite *.c *.h with .clang-format
	clang-format -i $$(git ls-files '*.[ch]')
format-check: ## fail when a file is not formatted
	clang-format --dry-run -Werror $$(git ls-files '*.[ch]')
.PHONY: format format-check

clean: ## remove build/
	rm -rf build
help: ## this list
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

-include $(LIB_OBJ:.o=.d) $(MAIN_OBJ:.o=.d) $(TEST_OBJ:.o=.d) $(SUPPORT_OBJ:.o=.d) $(BENCH:$(OUT)/bench/%=$(OUT)/obj/bench/%.d)
