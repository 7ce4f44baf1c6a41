# The owlet's data generator; it alone needs cairo and fonts, so `make` does not build it.
OWLET_SRC := $(wildcard training/owlet/*.c)
OWLET_OBJ := $(OWLET_SRC:%.c=$(OUT)/obj/%.o)
.PHONY: owlet-data
owlet-data: ## the generator of the owlet's training data and exam, build/bin/owlet-data
	@tools/setup libcairo2-dev fonts-dejavu-core fonts-liberation fonts-freefont-ttf
	@$(MAKE) --no-print-directory $(OUT)/bin/owlet-data
$(OUT)/bin/owlet-data: $(OWLET_OBJ) $(OUT)/libtyto.a
	@mkdir -p $(@D)
	@echo "  LD $@"
	@$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcairo
-include $(OWLET_OBJ:.o=.d)
.PHONY: owlet
owlet: owlet-data all ## train the owlet from nothing into build/owlet (hours; goes on where it stopped)
	@tools/setup sentencepiece
	@training/owlet/train build/owlet
.PHONY: test-owlet-data
test-owlet-data: owlet-data $(CLIENTS)/.requirements-owlet ## the owlet's data: alike when made again, answers that its exam marks right
	@$(CLIENTS)/bin/python tests/clients/check_owlet_data.py $(OUT)/bin/owlet-data
