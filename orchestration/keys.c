/* keys.c - `tyto keys`: the wire's CURVE keys, a pair for each role; or an API key for a client. */
#include "orchestration/commands.h"

#include "common/base/options.h"
#include "common/wire/keys.h"
#include "orchestration/api_key.h"

#include <openssl/crypto.h>
#include <stdio.h>

static struct { const char *out, *api, *note; } opt;

static const ty_option table[] = {
    TY_OPT_STR("out", NULL, opt.out, NULL, "DIR", "the wire: the directory to make them in"),
    TY_OPT_STR("api", NULL, opt.api, NULL, "FILE",
               "a new API key: prints it, and adds its digest to this file"),
    TY_OPT_STR("note", NULL, opt.note, "", "TEXT", "with --api: whose it is, for people"),
    TY_OPT_END};

static const char about[] =
    "Makes keys, of one of two kinds.\n"
    "  tyto keys --out DIR      a pair for each role of the wire: broker, gateway, and each stage. "
    "Give\n"
    "                           --keys DIR (or TYTO_KEYS) to every program whose broker has a tcp\n"
    "                           endpoint. A host needs its own roles' ROLE.key and broker.pub; "
    "the\n"
    "                           broker needs broker.key and all *.pub.\n"
    "  tyto keys --api FILE     a key for a client of the API. FILE is the gateway's "
    "--api-key-file; it\n"
    "                           holds digests alone, so the key is shown this once.\n";

static int make_wire_keys(void) {
    ty_err err = {0};
    if (ty_keys_make(opt.out, &err) != TY_OK) {
        fprintf(stderr, "tyto keys: %s\n", err.text);
        return 1;
    }
    printf("%s: a key pair each for", opt.out);
    for (int i = 0; i < TY_KEY_ROLES; i++) printf(" %s", ty_key_role[i]);
    printf("\n");
    return 0;
}

static int make_api_key(void) {
    ty_err err = {0};
    char key[API_KEY_TEXT];
    ty_status st = api_key_add(opt.api, opt.note, key, &err);
    if (st != TY_OK) {
        fprintf(stderr, "tyto keys: %s\n", err.text);
        return st == TY_EINVAL ? 2 : 1;
    }
    printf("%s\n", key);
    OPENSSL_cleanse(key, sizeof(key));
    return 0;
}

int cmd_keys(int argc, char **argv) {
    switch (ty_options_parse(table, "tyto keys --out DIR | --api FILE", about, argc, argv, NULL)) {
    case TY_OPTIONS_DONE: return 0;
    case TY_OPTIONS_USAGE: return 2;
    case TY_OPTIONS_GO: break;
    }
    bool wire = opt.out && *opt.out, api = opt.api && *opt.api;
    if (wire == api) {
        fprintf(stderr, "tyto keys: give --out DIR (the wire's keys) or --api FILE (an API key)\n");
        return 2;
    }
    return wire ? make_wire_keys() : make_api_key();
}
