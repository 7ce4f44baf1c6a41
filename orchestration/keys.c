/* keys.c - `tyto keys`: a CURVE key pair for each role of the wire. */
#include "orchestration/commands.h"

#include "common/base/options.h"
#include "common/wire/keys.h"

#include <stdio.h>

static struct { const char *out; } opt;

static const ty_option table[] = {
    TY_OPT_STR("out", NULL, opt.out, NULL, "DIR", "the directory to make them in"), TY_OPT_END};

static const char about[] =
    "Makes a key pair for each role: broker, gateway, and each stage. They protect the wire "
    "between\n"
    "hosts: give --keys DIR (or TYTO_KEYS) to every program whose broker has a tcp endpoint.\n"
    "A host needs its own roles' ROLE.key and broker.pub; the broker needs broker.key and all "
    "*.pub.\n";

int cmd_keys(int argc, char **argv) {
    ty_err err = {0};
    switch (ty_options_parse(table, "tyto keys --out DIR", about, argc, argv, NULL)) {
    case TY_OPTIONS_DONE: return 0;
    case TY_OPTIONS_USAGE: return 2;
    case TY_OPTIONS_GO: break;
    }
    if (!opt.out || !*opt.out) {
        fprintf(stderr, "tyto keys: --out DIR is missing: where to make them\n");
        return 2;
    }
    if (ty_keys_make(opt.out, &err) != TY_OK) {
        fprintf(stderr, "tyto keys: %s\n", err.text);
        return 1;
    }
    printf("%s: a key pair each for", opt.out);
    for (int i = 0; i < TY_KEY_ROLES; i++) printf(" %s", ty_key_role[i]);
    printf("\n");
    return 0;
}
