# make install, and the checks of what deploys Tyto: compose.yaml, Dockerfile, the units of orchestration/systemd.
PREFIX  ?= /usr/local
DESTDIR ?=
BINDIR   = $(PREFIX)/bin
SHAREDIR = $(PREFIX)/share/tyto
DOCDIR   = $(PREFIX)/share/doc/tyto
UNITDIR  = $(PREFIX)/lib/systemd/system
UNITS   := $(wildcard orchestration/systemd/*.service)

.PHONY: install uninstall test-deploy
install: ## install programs, the default model, units and docs (PREFIX=/usr/local, DESTDIR=)
	@$(MAKE) --no-print-directory -s MODE=release SAN= all
	@install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(SHAREDIR)/models/$(notdir $(DEFAULT_MODEL)) $(DESTDIR)$(DOCDIR) \
	    $(DESTDIR)$(UNITDIR)/tyto-.service.d $(DESTDIR)$(PREFIX)/lib/sysusers.d
	@install -m 0755 $(patsubst $(OUT)/%,build/%,$(BINS)) $(DESTDIR)$(BINDIR)
	@install -m 0644 $(DEFAULT_MODEL)/* $(DESTDIR)$(SHAREDIR)/models/$(notdir $(DEFAULT_MODEL))
	@install -m 0644 README.md docs/*.md orchestration/systemd/tyto.env $(DESTDIR)$(DOCDIR)
	@for u in $(UNITS); do sed 's,@bindir@,$(BINDIR),' "$$u" > "$(DESTDIR)$(UNITDIR)/$${u##*/}"; done
	@chmod 0644 $(addprefix $(DESTDIR)$(UNITDIR)/,$(notdir $(UNITS)))
	@install -m 0644 orchestration/systemd/tyto-.service.d/hardening.conf $(DESTDIR)$(UNITDIR)/tyto-.service.d
	@install -m 0644 orchestration/systemd/tyto.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/tyto.conf
	@echo "installed into $(DESTDIR)$(PREFIX)"
uninstall: ## remove what install put there
	@rm -rf $(DESTDIR)$(SHAREDIR) $(DESTDIR)$(DOCDIR) $(DESTDIR)$(UNITDIR)/tyto-.service.d
	@rm -f $(addprefix $(DESTDIR)$(BINDIR)/,$(notdir $(BINS))) $(addprefix $(DESTDIR)$(UNITDIR)/,$(notdir $(UNITS))) \
	    $(DESTDIR)$(PREFIX)/lib/sysusers.d/tyto.conf

# Beside tests/pipeline/test_deploy: the compose specification's JSON schema, from PyPI, and Docker where it is.
test-deploy: $(CLIENTS)/.requirements-deploy ## compose.yaml against its schema, and docker compose config where it is installed
	$(CLIENTS)/bin/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml
	@for c in "docker compose" docker-compose; do \
	     $$c version >/dev/null 2>&1 || continue; \
	     $$c config --quiet && echo "$$c config: ok"; exit; \
	 done; echo "docker compose is not installed: config not asked"
